//! The page of the embedded server in a real browser: what was pushed is what a person sees.

mod browser;
mod demo;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use browser::Browser;
use demo::{Dice, Server, machine};

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    i64::try_from(since.as_nanos()).expect("this century")
}

const SECOND: i64 = 1_000_000_000;

/// A server in this process with the last `windows` windows of ten seconds of a machine at work.
fn busy_server(listen: &str, windows: i64) -> Server {
    let server = Server::start(listen);
    let mut dice = Dice(7);
    let now = now_ns();
    for window in 0..windows {
        let start = now - (windows - window) * 10 * SECOND;
        push_machine(&server, start, 10 * SECOND, u64::try_from(window).expect("positive"), &mut dice);
    }
    server
}

fn push_machine(server: &Server, start: i64, duration: i64, tick: u64, dice: &mut Dice) {
    for (service, stacks) in machine(tick, duration, dice) {
        server.push(service, start, duration, &stacks);
    }
}

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

#[test]
fn services_graph_and_table_show_what_was_pushed() {
    let Some(mut browser) = Browser::start() else { return };
    let _server = known_page(&mut browser);
    check(
        &mut browser,
        "JSON.stringify(__state.services)",
        r#"[{"name":"alpha","total":180000000000},{"name":"beta","total":60000000000}]"#,
    );
    check(
        &mut browser,
        "[...document.querySelectorAll('.service')].map((e) => e.dataset.service).join()",
        ",alpha,beta",
    );
    check(
        &mut browser,
        "document.querySelector('[data-service=alpha] .service-share').textContent",
        "75.0 %",
    );
    check(&mut browser, "__state.mode", "live");
    let (all, main) =
        (frame(&mut browser, "all").expect("a root"), frame(&mut browser, "main").expect("main"));
    let leaf = frame(&mut browser, "leaf").expect("leaf");
    assert_eq!((all.total, main.total, leaf.total, leaf.own), (240e9, 150e9, 60e9, 60e9));
    assert!((main.width / all.width - 150.0 / 240.0).abs() < 0.01, "{} of {}", main.width, all.width);
    assert!((leaf.x - all.x).abs() < 1.0, "the heaviest comes first");
    let row = |name: &str| {
        format!(
            "(({{ self, total }}) => `${{self}} ${{total}}`)(document.querySelector('tr[data-name={name}]').dataset)"
        )
    };
    check(&mut browser, &row("leaf"), "60000000000 60000000000");
    check(&mut browser, &row("work"), "30000000000 90000000000");
    // What was profiled is text, whatever it looks like.
    check(
        &mut browser,
        "document.querySelector('tr[data-name^=\"<b>\"] .function').textContent",
        "<b>bold</b>",
    );
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn a_click_zooms_and_the_address_remembers_it() {
    let Some(mut browser) = Browser::start() else { return };
    let server = known_page(&mut browser);
    let work = frame(&mut browser, "work").expect("work");
    browser.click(work.x + work.width / 2.0, work.y);
    browser.wait("__state.zoomed === 'work'");
    browser.wait("__state.frames[0].name === 'work'");
    let wide = frame(&mut browser, "work").expect("work");
    assert!(wide.width > work.width * 2.0, "{} to {}", work.width, wide.width);
    check(
        &mut browser,
        "[...document.querySelectorAll('.crumb')].map((e) => e.textContent).join(' > ')",
        "all > main > work",
    );
    let address = browser.evaluate("location.href").as_str().expect("an address").to_owned();
    browser.open("about:blank");
    browser.open(&address);
    browser.wait("window.__state?.zoomed === 'work'");
    // What comes new is shown at the same place.
    push_known(&server, now_ns() - 9 * SECOND);
    browser.press("Backspace");
    browser.wait("__state.zoomed === 'main'");
    browser.press("Escape");
    browser.wait("__state.zoomed === 'all'");
    browser.evaluate("history.back()");
    browser.wait("__state.zoomed === 'main'");
    browser.press("Escape");
    browser.evaluate("document.querySelector('#flame').focus()");
    browser.press("ArrowDown");
    browser.press("ArrowDown");
    browser.press("Enter");
    browser.wait("__state.zoomed === 'work'");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn a_search_marks_frames_and_filters_the_table() {
    let Some(mut browser) = Browser::start() else { return };
    let _server = known_page(&mut browser);
    browser.press("/");
    browser.write("LEA");
    browser.wait("__state.matched === '25.0 % matched'");
    check(&mut browser, "__state.frames.filter((f) => f.matched).map((f) => f.name).join()", "leaf");
    check(
        &mut browser,
        "[...document.querySelectorAll('#functions tbody tr')].map((e) => e.dataset.name).join()",
        "leaf",
    );
    browser.press("Escape");
    browser.wait("__state.matched === ''");
    browser.press("/");
    browser.write("/^(leaf|begin)$/");
    browser.wait("__state.matched === '50.0 % matched'");
    browser.press("Escape");
    browser.click_on("tr[data-name=inner] .function");
    browser.wait("__state.matched === '12.5 % matched'");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn pointing_at_a_frame_says_what_it_is_and_why_it_is_not_known() {
    let Some(mut browser) = Browser::start() else { return };
    let _server = known_page(&mut browser);
    let read = frame(&mut browser, "sys_read").expect("sys_read");
    browser.point(read.x + read.width / 2.0, read.y);
    browser.wait("__state.tooltip?.includes('60.0 s') && __state.tooltip.includes('25.0 %') && __state.tooltip.includes('kernel')");
    let missing = frame(&mut browser, "[no frame pointer]").expect("a missing frame");
    browser.point(missing.x + missing.width / 2.0, missing.y);
    browser.wait("__state.tooltip?.includes('keeps no frame pointers')");
    // Graph and table are linked.
    let leaf = frame(&mut browser, "leaf").expect("leaf");
    browser.point(leaf.x + 5.0, leaf.y);
    browser.wait("document.querySelector('tr.marked')?.dataset.name === 'leaf'");
    browser.wait("__state.tooltip !== null");
    browser.point(20.0, 800.0);
    browser.wait("__state.tooltip === null && document.querySelector('tr.marked') === null");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn the_header_says_how_many_stacks_are_whole_and_why_the_others_are_not() {
    let Some(mut browser) = Browser::start() else { return };
    let server = Server::start("127.0.0.1:0");
    let push = |service: &str, stacks: &[(&str, i64)]| {
        let stacks: Vec<_> = stacks.iter().map(|&(stack, ms)| (stack.to_owned(), ms * 1_000_000)).collect();
        server.push(service, now_ns() - 10 * SECOND, 10 * SECOND, &stacks);
    };
    push(
        "mixed",
        &[
            ("main@/opt/m;f@/opt/m", 600),
            // A name of its own in brackets is no reason, and an address in a name is not nameless.
            ("[begin]@/opt/m;f+0x1@/opt/m", 20),
            ("main@/opt/m;/opt/m+0x1f@/opt/m;/opt/m+0x2f@/opt/m", 50),
            ("main@/opt/m;[anonymous code];f@/opt/m", 30),
            ("[no frame pointer];f@/opt/m", 195),
            ("[no frame pointer];/lib/x.so+0x10@/lib/x.so", 5),
            ("[stack too deep];f@/opt/m", 100),
        ],
    );
    push("sound", &[("main@/opt/s", 1000)]);
    browser.window(1440, 900, "dark");
    browser.open(&format!("http://{}/#service=mixed", server.address));
    browser.wait("window.__state?.total === 1e9");
    let figure = "document.querySelector('#quality').innerText";
    check(&mut browser, figure, "70.0 % of stacks whole");
    let place = browser.evaluate("(() => { const b = document.querySelector('#quality').getBoundingClientRect(); return [b.x + 5, b.y + 5]; })()");
    browser.point(place[0].as_f64().expect("a place"), place[1].as_f64().expect("a place"));
    browser.wait("__state.tooltip !== null");
    check(
        &mut browser,
        "[...document.querySelectorAll('.tooltip th')].map((e) => `${e.innerText} ${e.nextSibling.innerText}`).join()",
        "whole 70.0 %,cut: no frame pointer 20.0 %,cut: stack too deep 10.0 %,with a frame that has no name 8.50 %",
    );
    check(&mut browser, "__state.tooltip.includes('deeper than is walked')", "true");
    browser.point(700.0, 880.0);
    browser.wait("__state.tooltip === null");
    browser.evaluate("document.querySelector('#quality').focus()");
    browser.wait("__state.tooltip?.includes('70.0 %')");
    // Each service has its own, and all have one together.
    browser.click_on("[data-service=sound]");
    browser.wait(&format!("__state.total === 1e9 && {figure} === '100 % of stacks whole'"));
    browser.click_on("[data-service='']");
    browser.wait(&format!("__state.total === 2e9 && {figure} === '85.0 % of stacks whole'"));
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn a_range_is_selected_by_dragging_and_left_again() {
    let Some(mut browser) = Browser::start() else { return };
    let _server = known_page(&mut browser);
    let place = browser.evaluate("(() => { const b = document.querySelector('#chart').getBoundingClientRect(); return [b.x, b.y + 60, b.width]; })()");
    let at = |index: usize| place[index].as_f64().expect("a place");
    let (left, y, width) = (at(0) + 48.0, at(1), at(2) - 58.0);
    // 15 minutes are shown, of which the last five have data: the last minute.
    let step = width / 90.0;
    browser.drag((left + width - step * 5.5, y), (left + width - step * 0.5, y));
    browser.wait("__state.total === 48e9");
    check(
        &mut browser,
        "JSON.stringify(__state.services)",
        r#"[{"name":"alpha","total":36000000000},{"name":"beta","total":12000000000}]"#,
    );
    check(&mut browser, "__state.mode", "paused");
    browser.click_on("#clear-range");
    browser.wait("__state.total === 240e9 && __state.mode === 'live'");
    browser.click_on("[data-service=beta]");
    browser.wait("__state.total === 60e9 && __state.state.service === 'beta'");
    browser.press("k");
    browser.wait("__state.total === 180e9");
    browser.press("1");
    browser.wait("__state.total === 36e9");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn what_is_pushed_appears_by_itself_and_nobody_asks_while_the_page_is_hidden() {
    let Some(mut browser) = Browser::start() else { return };
    let server = Server::start("127.0.0.1:0");
    browser.window(1440, 900, "dark");
    browser.open(&format!("http://{}/", server.address));
    browser.wait("window.__state?.mode === 'waiting' && document.querySelector('#empty').innerText.includes('No samples yet')");
    server.push("first", now_ns() - SECOND, SECOND, &[("main".to_owned(), SECOND)]);
    browser.wait("__state.total === 1e9 && __state.mode === 'live'");
    server.push("first", now_ns() - SECOND, SECOND, &[("main".to_owned(), SECOND)]);
    browser.wait("__state.total === 2e9");
    let hide = |hidden: bool| {
        format!(
            "Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }}); document.dispatchEvent(new Event('visibilitychange')); performance.getEntriesByType('resource').length"
        )
    };
    let asked = browser.evaluate(&hide(true));
    std::thread::sleep(Duration::from_secs(4));
    server.push("first", now_ns() - SECOND, SECOND, &[("main".to_owned(), SECOND)]);
    assert_eq!(browser.evaluate("performance.getEntriesByType('resource').length"), asked);
    browser.evaluate(&hide(false));
    browser.wait("__state.total === 3e9");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn themes_follow_the_system_until_one_is_chosen() {
    let Some(mut browser) = Browser::start() else { return };
    let server = known_page(&mut browser);
    let ground = "getComputedStyle(document.body).backgroundColor";
    check(&mut browser, "__state.theme", "dark");
    let dark = browser.evaluate(ground);
    browser.window(1440, 900, "light");
    browser.wait("__state.theme === 'light'");
    assert_ne!(browser.evaluate(ground), dark);
    browser.press("t");
    browser.wait("__state.theme === 'dark'");
    browser.open("about:blank");
    browser.open(&format!("http://{}/", server.address));
    browser.wait("window.__state?.theme === 'dark'");
    assert_eq!(browser.evaluate(ground), dark);
}

#[test]
fn a_stack_of_two_thousand_frames_is_drawn() {
    let Some(mut browser) = Browser::start() else { return };
    let server = Server::start("127.0.0.1:0");
    let deep: Vec<_> = (0..2000).map(|depth| format!("f{depth}@/opt/deep")).collect();
    server.push("deep", now_ns() - 10 * SECOND, 10 * SECOND, &[(deep.join(";"), SECOND)]);
    browser.window(390, 844, "dark");
    browser.open(&format!("http://{}/", server.address));
    browser.wait("window.__state?.frames.some((f) => f.name === 'f5')");
    browser.evaluate("document.querySelector('#flame-scroller').scrollTop = 1e9");
    browser.wait("__state.frames.some((f) => f.name === 'f1999')");
    // Nothing sticks out of a phone.
    check(&mut browser, "document.documentElement.scrollWidth <= 390", "true");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

/// For whoever draws the page: `cargo test -p profiler-tests --test page -- --ignored --nocapture demo`.
#[test]
#[ignore = "serves until it is stopped"]
fn demo_server() {
    let listen = std::env::var("DEMO_LISTEN").unwrap_or_else(|_| "127.0.0.1:4040".into());
    let server = busy_server(&listen, 80);
    println!("http://{}", server.address);
    let mut dice = Dice(9);
    for tick in 80.. {
        std::thread::sleep(Duration::from_secs(10));
        push_machine(&server, now_ns() - 10 * SECOND, 10 * SECOND, tick, &mut dice);
    }
}

/// Pictures of the page in both themes and on a phone: `PICTURES=dir cargo test … -- --ignored pictures`.
/// Pictures of the page at `PAGE_URL`, a daemon that runs, in the folder `PICTURES`: the ones of the README.
#[test]
#[ignore = "draws pictures of a running daemon for people"]
fn pictures_of_a_running_daemon() {
    let folder = std::env::var("PICTURES").expect("PICTURES names a folder");
    let page = std::env::var("PAGE_URL").expect("PAGE_URL names a page, with its hash");
    let Some(mut browser) = Browser::start() else { return };
    for theme in ["dark", "light"] {
        browser.window(1440, 960, theme);
        browser.open("about:blank");
        browser.open(&page);
        browser.wait("window.__state?.frames.length > 20");
        browser.picture(&Path::new(&folder).join(format!("page-{theme}.png")));
    }
}

#[test]
#[ignore = "makes pictures to look at"]
fn pictures() {
    let folder = std::env::var("PICTURES").expect("PICTURES names a folder");
    let folder = Path::new(&folder);
    let Some(mut browser) = Browser::start() else { return };
    let server = busy_server("127.0.0.1:0", 80);
    let page = format!("http://{}/", server.address);
    for (name, width, height, theme) in [
        ("dark", 1440, 900, "dark"),
        ("light", 1440, 900, "light"),
        ("wide", 1920, 1080, "dark"),
        ("phone", 390, 844, "dark"),
        ("phone-light", 390, 844, "light"),
    ] {
        browser.window(width, height, theme);
        browser.open("about:blank");
        browser.open(&page);
        browser.wait("window.__state?.frames.length > 20");
        browser.picture(&folder.join(format!("{name}.png")));
    }
    browser.window(1440, 900, "dark");
    browser.open("about:blank");
    browser.open(&format!("{page}#service=checkout-api&q=json"));
    browser.wait("window.__state?.frames.length > 20");
    browser.point(700.0, 420.0);
    browser.wait("window.__state.tooltip !== null");
    browser.picture(&folder.join("search.png"));
    browser.press("Escape");
    browser.open("about:blank");
    browser.open(&format!("{page}#service=node&color=kind"));
    browser.wait("window.__state?.frames.length > 5");
    browser.picture(&folder.join("missing.png"));
    browser.point(340.0, 25.0);
    browser.wait("window.__state.tooltip !== null");
    browser.picture(&folder.join("quality.png"));
    browser.press("?");
    browser.picture(&folder.join("help.png"));
    let empty = Server::start("127.0.0.1:0");
    browser.open(&format!("http://{}/", empty.address));
    browser.wait("window.__state?.mode === 'waiting'");
    browser.picture(&folder.join("empty.png"));
    println!("{:?}", browser.complaints);
}
