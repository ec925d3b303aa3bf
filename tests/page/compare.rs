//! Two ranges or two services beside each other.

use super::browser::Browser;
use super::demo::Server;
use super::{SECOND, check, frame, now_ns};

/// In the last minute `shop` used 6 s, two thirds of it in `slow`; in the minute before 3 s, all in `fast`. `bank` used 3 s
/// in `fast` in each.
fn minutes(browser: &mut Browser) -> Server {
    let server = Server::start("127.0.0.1:0");
    let push = |service: &str, window: i64, stacks: &[(&str, i64)]| {
        let stacks: Vec<_> = stacks.iter().map(|&(stack, ms)| (stack.to_owned(), ms * 1_000_000)).collect();
        server.push(service, now_ns() - window * 10 * SECOND, 10 * SECOND, &stacks);
    };
    for window in 1..=12 {
        let now = [("main@/opt/s;slow@/opt/s", 400), ("main@/opt/s;fast@/opt/s", 200)];
        let before = [("main@/opt/s;fast@/opt/s", 500)];
        push("shop", window, if window <= 6 { &now } else { &before });
        push("bank", window, &[("main@/opt/s;fast@/opt/s", 500)]);
    }
    browser.window(1440, 900, "dark");
    browser.open("about:blank");
    browser.open(&format!("http://{}/#service=shop&last=300", server.address));
    browser.wait("window.__state?.total > 6.5e9");
    server
}

#[test]
fn a_selection_is_compared_with_the_time_before_it() {
    let Some(mut browser) = Browser::start() else { return };
    let _server = minutes(&mut browser);
    let place = browser.evaluate("(() => { const b = document.querySelector('#chart').getBoundingClientRect(); return [b.x, b.y + 60, b.width]; })()");
    let at = |index: usize| place[index].as_f64().expect("a place");
    // Five minutes are shown in steps of ten seconds: the last six.
    let step = (at(2) - 58.0) / 30.0;
    let right = at(0) + at(2) - 10.0;
    browser.drag((right - step * 5.5, at(1)), (right - step * 0.5, at(1)));
    browser.wait("Math.abs(__state.total - 3.6e9) < 1");
    browser.click_on("#compare");
    browser.wait("document.querySelector('#functions').classList.contains('compared')");
    let (slow, fast) =
        (frame(&mut browser, "slow").expect("slow"), frame(&mut browser, "fast").expect("fast"));
    // Two thirds of one side, and a third and all of the other: as wide as the sum.
    assert!((fast.width / slow.width - 2.0).abs() < 0.02, "{} to {}", fast.width, slow.width);
    check(
        &mut browser,
        "[...document.querySelectorAll('#functions tbody tr')].map((e) => `${e.dataset.name} ${e.lastChild.innerText}`).sort().join()",
        "fast −66.7 points,main unchanged,slow +66.7 points",
    );
    check(&mut browser, "document.querySelector('#legend').innerText.includes('less than before')", "true");
    check(&mut browser, "__state.mode + document.querySelector('#live-text').innerText", "pausedcomparison");
    browser.point(slow.x + 9.0, slow.y);
    browser.wait("__state.tooltip?.includes('+66.7 points')");
    let address = browser.evaluate("location.href").as_str().expect("an address").to_owned();
    browser.open("about:blank");
    browser.open(&address);
    browser.wait("window.__state?.frames.some((f) => f.name === 'fast') && document.querySelector('#functions').classList.contains('compared')");
    browser.click_on("#compare");
    browser.wait("!document.querySelector('#functions').classList.contains('compared')");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn what_changed_is_one_key_away() {
    let Some(mut browser) = Browser::start() else { return };
    let server = minutes(&mut browser);
    browser.open("about:blank");
    browser.open(&format!("http://{}/#service=shop&last=60", server.address));
    // A window more or less, wherever the minute ends.
    browser.wait("window.__state?.total > 2.9e9 && document.querySelector('#summary').innerText.includes('more than before')");
    browser.press("d");
    browser.wait("document.querySelector('#functions').classList.contains('compared')");
    check(
        &mut browser,
        "((s) => s.base.until === s.selected.from && s.selected.until - s.selected.from === 60000 && s.base.from === s.fixed.from)(__state.state)",
        "true",
    );
    browser.wait(
        "/\\+\\d\\d\\.\\d points/.test(document.querySelector('tr[data-name=slow]').lastChild.innerText)",
    );
    browser.press("d");
    browser.wait(
        "__state.mode === 'live' && !document.querySelector('#functions').classList.contains('compared')",
    );
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn a_link_shows_what_was_seen_as_it_goes_on_or_as_it_was() {
    let Some(mut browser) = Browser::start() else { return };
    let _server = minutes(&mut browser);
    browser.evaluate("Object.defineProperty(navigator, 'clipboard', { value: { writeText: async (text) => { window.__copied = text; } } })");
    let copied = |browser: &mut Browser, item: &str| {
        browser.evaluate("window.__copied = null");
        browser.click_on("#share");
        browser.click_on(&format!(".menu [data-item={item:?}]"));
        browser.wait("window.__copied !== null");
        browser.evaluate("window.__copied").as_str().expect("a link").to_owned()
    };
    let goes_on = copied(&mut browser, "Copy link");
    assert_eq!(browser.evaluate("location.href"), goes_on.as_str());
    let stands = copied(&mut browser, "Copy link to this moment");
    browser.open("about:blank");
    browser.open(&stands);
    browser.wait(
        "window.__state?.mode === 'paused' && __state.total > 6.5e9 && __state.state.service === 'shop'",
    );
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn a_service_is_compared_with_another_by_its_menu() {
    let Some(mut browser) = Browser::start() else { return };
    let _server = minutes(&mut browser);
    let place = browser.evaluate("(() => { const b = document.querySelector('[data-service=bank]').getBoundingClientRect(); return [b.x + 40, b.y + 12]; })()");
    browser.right_click(place[0].as_f64().expect("a place"), place[1].as_f64().expect("a place"));
    browser.click_on(".menu [data-item='Compare shop with it']");
    browser.wait("__state.state.against === 'bank' && document.querySelector('#functions').classList.contains('compared')");
    // Of shop's time over both minutes 2.4 of 6.6 s are in `slow`, of bank's nothing.
    check(&mut browser, "document.querySelector('tr[data-name=slow]').lastChild.innerText", "+36.4 points");
    check(&mut browser, "document.querySelector('#compare').innerText.trim()", "against bank ×");
    browser.click_on("#compare");
    browser.wait("__state.state.against === null");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}
