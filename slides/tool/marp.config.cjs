// How decks become pages: nothing is fetched when they are shown, so no emoji pictures and no formulas' fonts.
module.exports = {
  themeSet: __dirname + '/../theme',
  allowLocalFiles: true, // the figures
  options: { emoji: { shortcode: false, unicode: false }, math: false },
}
