//! The page of the embedded server in a real browser: what was pushed is what a person sees.

mod access;
mod browser;
mod compare;
mod demo;
mod explore;
mod first_screen;
mod narrow;
mod pictures;

use std::time::{SystemTime, UNIX_EPOCH};

use browser::Browser;
use demo::Server;

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    i64::try_from(since.as_nanos()).expect("this century")
}

const SECOND: i64 = 1_000_000_000;

/// A page of a server that holds what the tests below know: in each of the last 30 windows of ten seconds `alpha` used
/// 6 s (a third of it in `leaf`, a sixth in code that is not known) and `beta` 2 s.
fn known_page(browser: &mut Browser) -> Server {
    let server = Server::start("127.0.0.1:0");
    let now = now_ns();
    for window in 1..=30 {
        let start = now - window * 10 * SECOND;
        push_known(&server, start);
    }
    browser.window(1440, 900, "dark");
    browser.open("about:blank");
    browser.open(&format!("http://{}/", server.address));
    browser.wait("window.__state?.frames.length > 5");
    server
}

fn push_known(server: &Server, start: i64) {
    let alpha = [
        ("main@/opt/alpha;work@/opt/alpha;leaf@/opt/alpha", 2 * SECOND),
        ("main@/opt/alpha;work@/opt/alpha", SECOND),
        ("main@/opt/alpha;read@/lib/libc.so.6;sys_read@[kernel]", 2 * SECOND),
        ("[no frame pointer];inner@/opt/alpha", SECOND),
    ];
    let alpha = alpha.map(|(stack, value)| (stack.to_owned(), value));
    server.push("alpha", start, 10 * SECOND, &alpha);
    server.push(
        "beta",
        start,
        10 * SECOND,
        &[("begin@/opt/beta;<b>bold</b>@/opt/beta".to_owned(), 2 * SECOND)],
    );
}

/// A frame of the graph, by name: its place in the window, its width, what it weighs.
struct Frame {
    x: f64,
    y: f64,
    width: f64,
    total: f64,
    own: f64,
}

fn frame(browser: &mut Browser, name: &str) -> Option<Frame> {
    let found = browser.evaluate(&format!(
        "(() => {{ const b = document.querySelector('#flame').getBoundingClientRect(); \
         const f = window.__state.frames.find((f) => f.name === {name:?}); \
         return f ? [b.x + f.x, b.y + f.y + 10, f.width, f.total, f.self] : null; }})()"
    ));
    let at = |index: usize| found[index].as_f64();
    Some(Frame { x: at(0)?, y: at(1)?, width: at(2)?, total: at(3)?, own: at(4)? })
}

#[track_caller]
fn check(browser: &mut Browser, expression: &str, expected: &str) {
    let found = browser.evaluate(&format!("String({expression})"));
    assert_eq!(found, expected, "{expression}");
}
