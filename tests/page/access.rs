//! The page for everyone: no violation that axe knows of, all of it by keyboard, a phone's width, no script but ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use profiler_tests::harness::gate::{self, Missing};

use super::browser::Browser;
use super::{check, frame, known_page};

/// The sources of axe-core, as the page's own lock file says; `None`, said aloud, where npm cannot get them.
fn axe() -> Option<String> {
    let ui = Path::new(env!("CARGO_MANIFEST_DIR")).join("../profiler-daemon/ui");
    let file: PathBuf = ui.join("node_modules/axe-core/axe.min.js");
    if !file.exists() {
        let _ =
            Command::new("npm").args(["ci", "--no-audit", "--no-fund", "--silent"]).current_dir(&ui).status();
    }
    let sources = std::fs::read_to_string(file).ok();
    if sources.is_none() {
        gate::skip("axe", &Missing { required_by: "TEST_REQUIRE_BROWSER", what: "no axe-core".to_owned() });
    }
    sources
}

/// Nothing on the page as it is now breaks a rule.
#[track_caller]
fn check_rules(browser: &mut Browser, axe: &str, what: &str) {
    if browser.evaluate("typeof window.axe") == "undefined" {
        browser.evaluate(&format!("{axe}; 0"));
    }
    let found = browser.evaluate(
        "axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html + ' ' + n.failureSummary).join('; ')}`))",
    );
    assert_eq!(found, serde_json::json!([]), "{what}");
}

#[test]
fn no_rule_of_accessibility_is_broken_in_either_theme() {
    let Some(mut browser) = Browser::start() else { return };
    let Some(axe) = axe() else { return };
    let _server = known_page(&mut browser);
    for theme in ["dark", "light"] {
        browser.window(1440, 900, theme);
        browser.wait(&format!("__state.theme === {theme:?}"));
        check_rules(&mut browser, &axe, theme);
    }
    browser.press("?");
    check_rules(&mut browser, &axe, "help");
    browser.press("Escape");
    browser.press("f");
    browser.wait("document.querySelectorAll('.filter-form option').length > 4");
    check_rules(&mut browser, &axe, "filter");
    browser.press("Escape");
    browser.press("e");
    browser.wait("__state.menu !== null");
    check_rules(&mut browser, &axe, "menu");
    browser.press("Escape");
    browser.evaluate("location.hash = '#view=sandwich&function=work'");
    browser.wait("__state.frames.length === 4");
    check_rules(&mut browser, &axe, "sandwich");
    browser.evaluate("location.hash = '#only=nobody'");
    browser.wait("!document.querySelector('#empty').hidden");
    check_rules(&mut browser, &axe, "nothing to show");
    browser.window(390, 844, "light");
    browser.evaluate("location.hash = '#'");
    browser.wait("document.querySelector('#empty').hidden");
    check_rules(&mut browser, &axe, "phone");
}

#[test]
fn the_menu_is_walked_by_keyboard_and_gives_the_focus_back() {
    let Some(mut browser) = Browser::start() else { return };
    let _server = known_page(&mut browser);
    browser.evaluate("document.querySelector('#export').focus()");
    browser.press("Enter");
    browser.wait("document.activeElement.dataset.item === 'pprof'");
    browser.press("ArrowUp");
    check(&mut browser, "document.activeElement.dataset.item", "SVG");
    browser.press("ArrowDown");
    browser.press("ArrowDown");
    check(&mut browser, "document.activeElement.dataset.item", "Folded stacks");
    browser.press("Escape");
    check(&mut browser, "document.activeElement.id", "export");
    // The menu of the frame that was walked to.
    browser.evaluate("document.querySelector('#flame').focus()");
    browser.press("ArrowDown");
    browser.evaluate("document.querySelector('#flame').dispatchEvent(new MouseEvent('contextmenu', { bubbles: true, button: 0 }))");
    browser.wait("document.querySelector('.menu-title')?.innerText === 'main'");
    browser.press("ArrowDown");
    browser.press("Enter");
    browser.wait("__state.state.view === 'sandwich' && __state.state.function === 'main'");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn a_range_is_selected_by_keyboard() {
    let Some(mut browser) = Browser::start() else { return };
    let _server = known_page(&mut browser);
    browser.evaluate("document.querySelector('#chart').focus()");
    // The newest step, and two more before it: half a minute in steps of ten seconds.
    browser.press("ArrowLeft");
    browser.wait("__state.tooltip?.includes('0.800 cores')");
    browser.evaluate("for (let i = 0; i < 2; i++) document.querySelector('#chart').dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft', shiftKey: true }))");
    browser.press("Enter");
    browser.wait("__state.total === 24e9 && __state.mode === 'paused'");
    browser.press("Escape");
    browser.wait("__state.total === 240e9 && __state.mode === 'live'");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn on_a_phone_everything_is_within_its_width() {
    let Some(mut browser) = Browser::start() else { return };
    let _server = known_page(&mut browser);
    browser.window(390, 844, "dark");
    browser.wait("document.documentElement.clientWidth === 390");
    // Chart and graph learn their new width after the window has it.
    browser.wait("document.documentElement.scrollWidth <= 390");
    browser.wait("__state.frames.every((f) => f.x + f.width <= 390)");
    browser.evaluate("document.querySelector('#flame').scrollIntoView({ block: 'center' })");
    let leaf = frame(&mut browser, "leaf").expect("leaf");
    browser.right_click(leaf.x + 5.0, leaf.y);
    browser.wait("__state.menu !== null");
    let menu = browser.evaluate("(({ left, right }) => left >= 0 && right <= 390)(document.querySelector('.menu').getBoundingClientRect())");
    assert_eq!(menu, true);
}

#[test]
fn a_script_that_is_not_ours_does_not_run() {
    let Some(mut browser) = Browser::start() else { return };
    let _server = known_page(&mut browser);
    browser.evaluate("(() => { const script = document.createElement('script'); script.textContent = 'window.__foreign = 1'; document.body.append(script); document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.__foreign = 2\">'); })()");
    std::thread::sleep(std::time::Duration::from_millis(300));
    check(&mut browser, "window.__foreign", "undefined");
    assert!(
        browser.complaints.iter().any(|complaint| complaint.contains("Content Security Policy")),
        "{:?}",
        browser.complaints
    );
}
