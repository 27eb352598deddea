# Bash completion for hv. `make install` puts it where bash-completion finds it; without that package:
#   source src/cli/hv.bash
#
# The names of commands and options come from `hv help` itself, so they cannot go stale; only the kinds
# of values are listed here.

# The options of the command $2 of the program $1, one a line.
_hv_options() {
    "$1" help "$2" 2>/dev/null | sed -n 's/^  \(-.,\|   \) \(--[a-z-]*\).*/\2/p'
    echo --help
}

_hv_commands() {
    "$1" help 2>/dev/null | sed -n 's/^  hv \([a-z]*\) .*/\1/p'
}

# The commands of the machine that listens at $2.
_hv_asked() {
    "$1" ctl "$2" commands 2>/dev/null | sed -n 's/^\([a-z][a-z-]*\).*/\1/p'
}

_hv_files() {
    mapfile -t COMPREPLY < <(compgen -f -- "$1")
    compopt -o filenames 2>/dev/null
}

_hv_words() {
    mapfile -t COMPREPLY < <(compgen -W "$1" -- "$2")
}

# A back end: a word, or file: and a path. Bash splits words at the colon, so the path is a word of its
# own by the time it is typed.
_hv_back_end() {
    _hv_words "stdio stdout pty none file:" "$1"
    [[ ${COMPREPLY[*]} != file: ]] || compopt -o nospace 2>/dev/null
}

# Completes the value of option $1 from its beginning $2; fails if the option takes none.
_hv_value() {
    case $1 in
    --kernel | -k | --initrd | -i | --trace | --kvm-device | --chrome) _hv_files "$2" ;;
    --boot) _hv_words "auto linux pvh multiboot elf flat" "$2" ;;
    --memory | -m) _hv_words "128M 256M 512M 1G 2G 4G" "$2" ;;
    --memory-backing) _hv_words "anonymous memfd hugetlb" "$2" ;;
    --cpus | -c) _hv_words "1 2 4 8" "$2" ;;
    --irqchip) _hv_words "on off" "$2" ;;
    --serial | --debug-port) _hv_back_end "$2" ;;
    --log-level) _hv_words "error warning info debug" "$2" ;;
    --disk | -d) _hv_files "$2" ;;
    --console) _hv_back_end "$2" ;;
    --vsock) _hv_files "$2" ;;
    --balloon) _hv_words "0 64M 256M" "$2" ;;
    --net) _hv_words "user tap= stream= listen= none" "$2" ;;
    --virtio) _hv_words "pci mmio" "$2" ;;
    --format | -f | --from | --backing-format) _hv_words "raw qcow2" "$2" ;;
    --cluster-size) _hv_words "512 4K 64K 2M" "$2" ;;
    --backing) _hv_files "$2" ;;
    --control) _hv_files "$2" ;;
    --gdb) _hv_words "1234 0 unix:" "$2" ;;
    --append | -p | --load | --entry | --file-limit | --trace-events | --last | -n) COMPREPLY=() ;;
    *) return 1 ;;
    esac
}

# Options, or files where the command takes one.
_hv_operand() {
    case $2 in
    help) _hv_words "$(_hv_commands "$1")" "$3" ;;
    inspect | trace)
        _hv_files "$3"
        [[ $3 != -* ]] || _hv_words "$(_hv_options "$1" "$2")" "$3"
        ;;
    image)
        _hv_files "$3"
        [[ $3 != -* ]] || _hv_words "$(_hv_options "$1" "$2")" "$3"
        ((COMP_CWORD != 2)) || [[ $3 == -* ]] || _hv_words "create info check convert resize" "$3"
        ;;
    ctl)
        _hv_files "$3"
        [[ $3 != -* ]] || _hv_words "$(_hv_options "$1" "$2")" "$3"
        [[ ! -S ${COMP_WORDS[COMP_CWORD - 1]} ]] || _hv_words "$(_hv_asked "$1" "${COMP_WORDS[COMP_CWORD - 1]}")" "$3"
        ;;
    *) _hv_words "$(_hv_options "$1" "$2")" "$3" ;;
    esac
}

# Bash gives the separators of --option=value and of file:path as words of their own.
_hv() {
    local hv=$1 at=$COMP_CWORD
    local word=${COMP_WORDS[at]} before=${COMP_WORDS[at - 1]}

    COMPREPLY=()
    if [[ $word == [=:] ]]; then
        before=$word word=
        at=$((at + 1))
    fi
    if [[ $before == = ]]; then
        before=${COMP_WORDS[at - 2]}
    fi
    if ((at == 1)); then
        _hv_words "$(_hv_commands "$hv") --help --version" "$word"
    elif [[ $before == : ]]; then
        _hv_files "$word"
    elif ! _hv_value "$before" "$word"; then
        _hv_operand "$hv" "${COMP_WORDS[1]}" "$word"
    fi
}

complete -F _hv hv
