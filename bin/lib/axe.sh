# axe-core, which finds what keeps people from using a page: the script alone, out of a wheel
# that would drive another browser.
# Sourced; wants messages.sh, python.sh, and $VENV.

# axe: exports AXE, the path of the script.
axe() {
    local release=axe-playwright-python==0.1.8 log=$DEV/log/axe.log folder uv # axe-core 4.12.1
    folder=$DEV/$release
    export AXE=$folder/axe_playwright_python/axe.min.js
    [[ ! -e $AXE ]] || return 0
    step "axe-core"
    uv=$(find_uv "$VENV/bin/python")
    "$uv" pip install --python "$VENV/bin/python" --no-deps --target "$folder" "$release" >"$log" 2>&1 ||
        die_with_log "axe-core could not be fetched." "$log" \
            "Check that the Python package index can be reached, then run this again."
}
