//! For people: a page to play with, and pictures of it.

use std::path::Path;
use std::time::Duration;

use super::browser::Browser;
use super::demo::{Dice, Server, machine};
use super::{SECOND, now_ns};

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

/// Pictures of the page at `PAGE_URL`, a daemon that runs, in the folder `PICTURES`.
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

/// Pictures of the page in both themes and on a phone, those of the README among them: `PICTURES=dir cargo test … -- --ignored pictures`.
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
        browser.open(&format!("{page}#last=300"));
        browser.wait(
            "window.__state?.frames.length > 20 && [...document.querySelectorAll('.service-change')].some((e) => e.textContent !== '')",
        );
        browser.picture(&folder.join(format!("{name}.png")));
    }
    for (name, hash) in [
        ("sandwich", "view=sandwich&function=malloc&color=package"),
        ("inverted", "service=checkout-api&view=inverted&color=package"),
        ("without", "hide=%2F%5E%5C%5Bkernel%2F&only=main&where=hostname%21%3Dx"),
        ("search", "service=checkout-api&q=json"),
        ("against", "service=checkout-api&against=node"),
    ] {
        for theme in ["dark", "light"] {
            browser.window(1440, 900, theme);
            browser.open("about:blank");
            browser.open(&format!("{page}#{hash}"));
            browser.wait("window.__state?.frames.length > 3");
            browser.point(700.0, 420.0);
            browser.picture(&folder.join(format!("{name}-{theme}.png")));
        }
    }
    browser.window(1440, 900, "dark");
    browser.open("about:blank");
    browser.open(&format!("{page}#last=300"));
    browser.wait("window.__state?.frames.length > 20");
    browser.wait("!document.querySelector('#compare').hidden");
    browser.right_click(600.0, 420.0);
    browser.picture(&folder.join("menu.png"));
    browser.press("Escape");
    browser.press("f");
    browser.picture(&folder.join("filter.png"));
    browser.press("Escape");
    browser.press("d");
    browser.wait("document.querySelector('#functions').classList.contains('compared')");
    browser.point(420.0, 420.0);
    browser.picture(&folder.join("compare.png"));
    browser.press("d");
    browser.press("?");
    browser.picture(&folder.join("help.png"));
    let empty = Server::start("127.0.0.1:0");
    browser.open(&format!("http://{}/", empty.address));
    browser.wait("window.__state?.mode === 'waiting'");
    browser.picture(&folder.join("empty.png"));
    println!("{:?}", browser.complaints);
}
