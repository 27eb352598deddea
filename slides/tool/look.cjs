// look: does everything fit? Opens pages in Chromium, measures them, and tells what sticks out.
//
//   NODE_PATH=…/node_modules node look.cjs [--png DIR] BROWSER FILE...
//
// FILE is a deck that Marp has turned into HTML (template "bare": all pages one below the other) or a figure.
// Prints one JSON object: {"complaints": [{"file", "page", "what"}], "pages": {file: number of pages}}.
// With --png every page is also painted into DIR, to be looked at by a person.
//
// A deck's page has a frame that only footer, header and page number may enter. Whatever else lies outside it, is
// cut off by its own box, is too small to be read, or does not load, is a complaint. A figure's texts must lie
// inside its viewBox and its box, and not on each other. Nothing may come from the network.

const fs = require('fs')
const path = require('path')
const { pathToFileURL } = require('url')
const puppeteer = require('puppeteer-core')

const WIDTH = 1280
const HEIGHT = 720
// Many a reader's browser shows figures in it, and it is wider than most.
const WIDE_FONT = 'DejaVu Sans'

// Runs in the page. Returns [[page, what], …].
function measureDeck() {
  const SLACK = 2 // pixels; glyphs are wider than their advance
  const SMALLEST = 16 // pixels of 720 in height
  const complaints = []

  const name = (element) => element.localName.replace(/^marp-/, '')
  const shown = (text) => `"${text.trim().replace(/\s+/g, ' ').slice(0, 50)}"`

  // The rectangle that content may use: the page without its padding, a little wider to the right and below.
  function frameOf(section) {
    const box = section.getBoundingClientRect()
    const style = getComputedStyle(section)
    const part = (side) => parseFloat(style[`padding${side}`])
    return {
      left: box.left + Math.min(part('Left'), 40),
      top: box.top + Math.min(part('Top'), 40),
      right: box.right - part('Right'),
      bottom: box.bottom - part('Bottom'),
    }
  }

  function outside(rect, frame) {
    const over = {
      'right by': rect.right - frame.right,
      'bottom by': rect.bottom - frame.bottom,
      'left by': frame.left - rect.left,
      'top by': frame.top - rect.top,
    }
    const sides = Object.entries(over).filter(([, pixels]) => pixels > SLACK)
    return sides.map(([side, pixels]) => `${side} ${Math.round(pixels)} px`).join(', ')
  }

  function lookAtText(node, frame, page) {
    const range = document.createRange()
    range.selectNodeContents(node)
    const parent = node.parentElement
    for (const rect of range.getClientRects()) {
      const where = outside(rect, frame)
      if (where) {
        complaints.push([page, `${name(parent)} ${shown(node.data)} beyond the ${where}`])
        break
      }
    }
    const size = parseFloat(getComputedStyle(parent).fontSize)
    if (size < SMALLEST) complaints.push([page, `${name(parent)} ${shown(node.data)} is only ${size} px tall`])
  }

  function lookAtElement(element, frame, page) {
    const label = element.localName === 'img' ? `figure ${element.getAttribute('src')}` : name(element)
    if (element.localName === 'img' && !element.naturalWidth) complaints.push([page, `${label} does not load`])
    const where = outside(element.getBoundingClientRect(), frame)
    if (where) complaints.push([page, `${label} beyond the ${where}`])
    const cut = element.scrollWidth - element.clientWidth
    if (element.clientWidth && cut > SLACK) {
      complaints.push([page, `${label} ${shown(element.textContent)} is cut at the right by ${cut} px`])
    }
  }

  const sections = [...document.querySelectorAll('section')]
  sections.forEach((section, index) => {
    const frame = frameOf(section)
    const page = index + 1
    for (const element of section.querySelectorAll('img, pre, table, blockquote')) lookAtElement(element, frame, page)
    const texts = document.createTreeWalker(section, NodeFilter.SHOW_TEXT)
    while (texts.nextNode()) {
      const node = texts.currentNode
      const inFrame = !node.parentElement.closest('header, footer, style, script')
      if (inFrame && node.data.trim()) lookAtText(node, frame, page)
    }
  })
  return { pages: sections.length, complaints }
}

// Runs in the page, an SVG. Returns the same. A figure asks for some sans-serif font: with FONT it gets this one.
function measureFigure(font) {
  const complaints = []
  if (font) document.documentElement.style.fontFamily = font
  const box = document.documentElement.viewBox.baseVal
  const toUser = document.documentElement.getScreenCTM().inverse()
  const boxOf = (element) => {
    const rect = element.getBoundingClientRect()
    const corner = (x, y) => new DOMPoint(x, y).matrixTransform(toUser)
    const [from, to] = [corner(rect.left, rect.top), corner(rect.right, rect.bottom)]
    return { left: from.x, top: from.y, right: to.x, bottom: to.y }
  }
  const texts = [...document.querySelectorAll('text')].map((element) => {
    const label = `"${element.textContent.trim().replace(/\s+/g, ' ').slice(0, 50)}"`
    return { ...boxOf(element), label, empty: !element.getBoundingClientRect().width }
  })
  const boxes = [...document.querySelectorAll('rect')].map(boxOf).filter((rect) => rect.right - rect.left < box.width - 1)
  // The smallest box that the text's middle lies in is the one it was meant for.
  const home = (text) => {
    const [x, y] = [(text.left + text.right) / 2, (text.top + text.bottom) / 2]
    const around = boxes.filter((rect) => rect.left < x && x < rect.right && rect.top < y && y < rect.bottom)
    return around.sort((one, other) => one.right - one.left - (other.right - other.left))[0]
  }
  texts.forEach((text, index) => {
    if (text.empty) return
    const over = Math.max(text.right - box.x - box.width, box.x - text.left)
    const below = Math.max(text.bottom - box.y - box.height, box.y - text.top)
    if (over > 1) complaints.push([1, `${text.label} beyond the side by ${Math.round(over)}`])
    // Line boxes are taller than what is drawn in them.
    if (below > 4) complaints.push([1, `${text.label} beyond top or bottom by ${Math.round(below)}`])
    const around = home(text)
    const out = around ? Math.max(text.right - around.right, around.left - text.left) : 0
    if (out > 1) complaints.push([1, `${text.label} sticks out of its box by ${Math.round(out)}`])
    for (const other of texts.slice(index + 1)) {
      const wide = Math.min(text.right, other.right) - Math.max(text.left, other.left)
      const high = Math.min(text.bottom, other.bottom) - Math.max(text.top, other.top)
      const least = Math.min(text.bottom - text.top, other.bottom - other.top)
      if (wide > 2 && high > 0.4 * least) complaints.push([1, `${text.label} and ${other.label} lie on each other`])
    }
  })
  return { pages: 1, complaints }
}

async function paint(page, file, pages, directory) {
  const stem = path.basename(file).replace(/\.(html|svg)$/, '')
  if (file.endsWith('.svg')) {
    await (await page.$('svg')).screenshot({ path: path.join(directory, `${stem}.png`) })
    return
  }
  for (let number = 1; number <= pages; number++) {
    // The pages lie one below the other, each as large as the window.
    await page.evaluate((index) => document.querySelectorAll('section')[index].scrollIntoView(), number - 1)
    await page.screenshot({ path: path.join(directory, `${stem}-${String(number).padStart(2, '0')}.png`) })
  }
}

async function lookAt(browser, file, report, directory) {
  const page = await browser.newPage()
  await page.setViewport({ width: WIDTH, height: HEIGHT })
  page.on('request', (request) => {
    if (/^https?:/.test(request.url())) report(file, 0, `wants ${request.url()} from the network`)
  })
  await page.goto(pathToFileURL(path.resolve(file)).href, { waitUntil: 'load' })
  const figure = file.endsWith('.svg')
  const { pages, complaints } = await page.evaluate(figure ? measureFigure : measureDeck)
  for (const [number, what] of complaints) report(file, number, what)
  if (figure && !complaints.length) {
    const wide = await page.evaluate(measureFigure, WIDE_FONT)
    for (const [number, what] of wide.complaints) report(file, number, `${what}, in ${WIDE_FONT}`)
  }
  if (directory) await paint(page, file, pages, directory)
  await page.close()
  return pages
}

async function main(argv) {
  const directory = argv[0] === '--png' ? argv.splice(0, 2)[1] : null
  const [executablePath, ...files] = argv
  const result = { complaints: [], pages: {} }
  const report = (file, page, what) => result.complaints.push({ file, page, what })
  if (directory) fs.mkdirSync(directory, { recursive: true })
  // As root Chromium has no sandbox; all it opens is ours.
  const args = process.getuid() === 0 ? ['--no-sandbox'] : []
  const browser = await puppeteer.launch({ executablePath, pipe: true, args: [...args, '--disable-dev-shm-usage'] })
  try {
    for (const file of files) result.pages[file] = await lookAt(browser, file, report, directory)
  } finally {
    await browser.close()
  }
  console.log(JSON.stringify(result))
}

main(process.argv.slice(2)).catch((error) => {
  console.error(`look: ${error.message}`)
  process.exit(2)
})
