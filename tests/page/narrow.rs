//! Choosing whose profiles are shown: labels, other kinds of profiles, what no stack passes.

use super::browser::Browser;
use super::demo::Server;
use super::{SECOND, check, known_page, now_ns};

fn push(server: &Server, service: &str, host: &str, seconds: i64) {
    server.push_as(
        ["process_cpu", "cpu", "nanoseconds"],
        &[("service_name", service), ("host", host)],
        now_ns() - 10 * SECOND,
        10 * SECOND,
        &[(format!("main@/opt/{service}"), seconds * SECOND)],
    );
}

/// Two services on two hosts: on `one` `web` used 1 s, on `two` `web` used 2 s and `db` 4 s.
fn hosts(browser: &mut Browser) -> Server {
    let server = Server::start("127.0.0.1:0");
    push(&server, "web", "one", 1);
    push(&server, "web", "two", 2);
    push(&server, "db", "two", 4);
    browser.window(1440, 900, "dark");
    browser.open(&format!("http://{}/", server.address));
    browser.wait("window.__state?.total === 7e9");
    server
}

const NAMES: &str = "__state.services.map((s) => `${s.name} ${s.total / 1e9}`).join()";

#[test]
fn a_filter_narrows_everything_and_is_taken_back_by_its_chip() {
    let Some(mut browser) = Browser::start() else { return };
    let _server = hosts(&mut browser);
    browser.press("f");
    browser.wait("document.querySelectorAll('.filter-form option').length >= 6");
    check(
        &mut browser,
        "[...document.querySelector('.filter-form select').options].map((o) => o.value).join()",
        "host,service_name",
    );
    browser.evaluate("(() => { const name = document.querySelector('.filter-form select'); name.value = 'host'; name.dispatchEvent(new Event('change')); })()");
    browser.wait(
        "[...document.querySelectorAll('#filter-values option')].map((o) => o.value).join() === 'one,two'",
    );
    browser.evaluate("document.querySelector('.filter-form input').focus()");
    browser.write("two");
    browser.press("Enter");
    browser.wait("__state.total === 6e9");
    check(&mut browser, NAMES, "db 4,web 2");
    check(&mut browser, "location.hash", "#where=host%3Dtwo");
    browser.click_on("#filters .chips button");
    browser.wait("__state.total === 7e9");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn the_list_is_split_by_any_label() {
    let Some(mut browser) = Browser::start() else { return };
    let _server = hosts(&mut browser);
    browser.wait("[...document.querySelector('#group').options].some((o) => o.value === 'host')");
    browser.evaluate("(() => { const group = document.querySelector('#group'); group.value = 'host'; group.dispatchEvent(new Event('change')); })()");
    browser.wait(&format!("{NAMES} === 'two 6,one 1'"));
    browser.click_on("[data-service=one]");
    browser.wait("__state.total === 1e9");
    check(&mut browser, "location.hash", "#group=host&service=one");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn what_no_stack_passes_says_so_and_leads_back() {
    let Some(mut browser) = Browser::start() else { return };
    let server = known_page(&mut browser);
    browser.open("about:blank");
    browser.open(&format!("http://{}/#only=nobody", server.address));
    browser.wait("document.querySelector('#empty').innerText.includes('Nothing is left to show')");
    browser.click_on("#empty button");
    browser.wait("__state.total === 240e9 && document.querySelector('#empty').hidden");
    // A pattern that the server cannot read is said in its words.
    browser.open("about:blank");
    browser.open(&format!("http://{}/#hide=%2F(%2F", server.address));
    browser.wait("window.__state?.mode === 'gone' && document.querySelector('#live-text').innerText.includes('cannot be read')");
}

#[test]
fn profiles_of_an_sdk_have_their_own_units() {
    let Some(mut browser) = Browser::start() else { return };
    let server = Server::start("127.0.0.1:0");
    let sdk = |name: [&str; 3], values: [i64; 2]| {
        for (window, value) in (1..).zip(values) {
            let labels = [("service_name", "shop")];
            let start = now_ns() - window * 10 * SECOND;
            server.push_as(name, &labels, start, 10 * SECOND, &[("main.run@/opt/shop".to_owned(), value)]);
        }
    };
    sdk(["memory", "inuse_space", "bytes"], [3 << 20, 5 << 20]);
    sdk(["memory", "alloc_objects", "count"], [30, 12]);
    sdk(["goroutines", "goroutine", "count"], [8, 8]);
    browser.window(1440, 900, "dark");
    // Without a profile of CPUs what there is is shown.
    browser.open(&format!("http://{}/", server.address));
    browser.wait("window.__state?.state.type !== null && __state.total > 0");
    check(
        &mut browser,
        "[...document.querySelector('#type').options].map((o) => o.textContent).join()",
        "Goroutines,Objects allocated,Memory in use",
    );
    let show = |browser: &mut Browser, kind: &str, total: &str| {
        browser.evaluate(&format!("(() => {{ const type = document.querySelector('#type'); type.value = [...type.options].find((o) => o.textContent === {kind:?}).value; type.dispatchEvent(new Event('change')); }})()"));
        browser.wait(&format!("__state.total === {total}"));
        browser.evaluate("document.querySelector('#summary').innerText").as_str().expect("text").to_owned()
    };
    // What is there at a moment is not added up.
    assert!(
        show(&mut browser, "Memory in use", "4 * 2 ** 20")
            .starts_with("all services: 4.00 MiB on average over")
    );
    assert!(show(&mut browser, "Goroutines", "8").starts_with("all services: 8 goroutines on average over"));
    assert!(show(&mut browser, "Objects allocated", "42").starts_with("all services: 42 objects in"));
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}
