//! What a person sees who opens the page, and what the first clicks do.

use std::time::Duration;

use profiler_daemon::server::Config;

use super::browser::Browser;
use super::demo::Server;
use super::{SECOND, check, frame, known_page, now_ns, push_known};

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
    browser.wait(&format!(
        "(() => {{ const {{ x, y, width, height }} = document.querySelector('#flame-spacer .outline').getBoundingClientRect(); \
         return Math.abs(x + width / 2 - {}) < 2 && Math.abs(y + height / 2 - {}) < 2 && Math.abs(width - {}) < 3; }})()",
        read.x + read.width / 2.0,
        read.y,
        read.width
    ));
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
    browser.evaluate(&hide(true));
    // What was asked before is answered still.
    std::thread::sleep(Duration::from_secs(2));
    let asked = browser.evaluate("performance.getEntriesByType('resource').length");
    std::thread::sleep(Duration::from_secs(3));
    server.push("first", now_ns() - SECOND, SECOND, &[("main".to_owned(), SECOND)]);
    assert_eq!(browser.evaluate("performance.getEntriesByType('resource').length"), asked);
    browser.evaluate(&hide(false));
    browser.wait("__state.total === 3e9");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn a_machine_on_which_nothing_happens_is_called_idle_where_its_profiler_is_known_to_run() {
    let Some(mut browser) = Browser::start() else { return };
    let server = Server::start_as("127.0.0.1:0", Config { agent: true, ..Config::default() });
    browser.window(1440, 900, "dark");
    browser.open(&format!("http://{}/", server.address));
    browser.wait(
        "/The machine is idle[^]*timeout 30 sh[^]*doctor/.test(document.querySelector('#empty').innerText)",
    );
    server.push("first", now_ns() - SECOND, SECOND, &[("main".to_owned(), SECOND)]);
    browser.wait("__state.total === 1e9 && document.querySelector('#empty').hidden");
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
