//! What can be done with the flame graph: the menu of a frame, the other end of stacks, colours, what was too thin, files.

use super::browser::Browser;
use super::demo::Server;
use super::{SECOND, check, frame, known_page, now_ns};

/// Opens the menu of a frame and chooses from it.
fn choose(browser: &mut Browser, name: &str, item: &str) {
    let place = frame(browser, name).unwrap_or_else(|| panic!("no frame {name}"));
    browser.right_click(place.x + place.width / 2.0, place.y);
    browser.wait("__state.menu !== null");
    browser.click_on(&format!(".menu [data-item={item:?}]"));
    browser.wait("__state.menu === null");
}

#[test]
fn the_menu_of_a_frame_hides_it_and_keeps_its_weight() {
    let Some(mut browser) = Browser::start() else { return };
    let _server = known_page(&mut browser);
    let leaf = frame(&mut browser, "leaf").expect("leaf");
    browser.right_click(leaf.x + 5.0, leaf.y);
    browser.wait("__state.menu !== null");
    check(
        &mut browser,
        "__state.menu.join()",
        "Zoom in,Sandwich,Only this,Hide,Hide all of alpha,Search for it,Copy name,Copy stack",
    );
    browser.press("Escape");
    browser.wait("__state.menu === null && __state.zoomed === 'all'");
    choose(&mut browser, "leaf", "Hide");
    browser.wait("!__state.frames.some((f) => f.name === 'leaf')");
    let work = frame(&mut browser, "work").expect("work");
    assert_eq!((work.total, work.own), (90e9, 90e9), "its caller has its time");
    check(&mut browser, "__state.total", "240000000000");
    check(&mut browser, "document.querySelector('#without').innerText.trim()", "without leaf×");
    check(&mut browser, "location.hash", "#hide=leaf");
    choose(&mut browser, "sys_read", "Only this");
    browser.wait("__state.total === 60e9");
    check(
        &mut browser,
        "[...document.querySelectorAll('#functions tbody tr')].map((e) => e.dataset.name).sort().join()",
        "main,read,sys_read",
    );
    // List and graph of time follow: beta never reads.
    check(&mut browser, "JSON.stringify(__state.services)", r#"[{"name":"alpha","total":60000000000}]"#);
    browser.click_on("#without button");
    browser.wait("__state.total === 240e9");
    browser.evaluate("history.back()");
    browser.wait("__state.total === 60e9");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn a_sandwich_shows_callers_and_callees_of_one_function() {
    let Some(mut browser) = Browser::start() else { return };
    let _server = known_page(&mut browser);
    choose(&mut browser, "work", "Sandwich");
    browser.wait("__state.state.view === 'sandwich' && __state.frames.length === 4");
    check(
        &mut browser,
        "__state.frames.map((f) => `${f.name} ${f.total / 1e9}`).join()",
        "work 90,main 90,work 90,leaf 60",
    );
    check(&mut browser, "document.querySelector('.crumbs').textContent", "all›work90.0 s, 37.5 %");
    // The table stays that of everything.
    check(&mut browser, "document.querySelector('tr[data-name=main]').dataset.total", "150000000000");
    // Who follows a frame makes it the middle.
    let address = browser.evaluate("location.href").as_str().expect("an address").to_owned();
    let place = browser.evaluate("(() => { const b = document.querySelector('#callees').getBoundingClientRect(); const f = __state.frames.find((f) => f.name === 'leaf'); return [b.x + f.x + 9, b.y + f.y + 10]; })()");
    browser.click(place[0].as_f64().expect("a place"), place[1].as_f64().expect("a place"));
    browser.wait("__state.state.function === 'leaf' && __state.total === 60e9");
    browser.press("Escape");
    browser.wait("__state.state.view === 'calls' && __state.total === 240e9");
    browser.open("about:blank");
    browser.open(&address);
    browser.wait("window.__state?.frames.length === 4");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn stacks_are_read_from_their_leaves_with_i() {
    let Some(mut browser) = Browser::start() else { return };
    let _server = known_page(&mut browser);
    browser.press("i");
    browser.wait(
        "__state.frames.find((f) => f.name === 'work')?.y > __state.frames.find((f) => f.name === 'leaf')?.y",
    );
    check(&mut browser, "document.querySelector('#invert').ariaPressed", "true");
    let (leaf, work) =
        (frame(&mut browser, "leaf").expect("leaf"), frame(&mut browser, "work").expect("work"));
    assert_eq!((leaf.total, leaf.own), (60e9, 0.0));
    // `work` is a leaf of its own and a caller of `leaf`.
    assert!([30e9, 60e9].contains(&work.total));
    check(&mut browser, "document.querySelector('tr[data-name=leaf]').dataset.self", "60000000000");
    browser.click(leaf.x + 9.0, leaf.y);
    browser.wait("__state.zoomed === 'leaf'");
    browser.press("i");
    browser.wait("__state.state.view === 'calls' && __state.zoomed === 'all'");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn a_preset_takes_frames_of_the_kernel_away_and_gives_them_back() {
    let Some(mut browser) = Browser::start() else { return };
    let _server = known_page(&mut browser);
    browser.click_on("#hide-menu");
    browser.click_on(".menu [data-item='The kernel']");
    browser.wait("!__state.frames.some((f) => f.name === 'sys_read')");
    assert_eq!(frame(&mut browser, "read").expect("read").own, 60e9);
    browser.click_on("#hide-menu");
    check(
        &mut browser,
        "document.querySelector('[role=menuitemcheckbox][aria-checked=true] .menu-label').innerText",
        "The kernel",
    );
    browser.click_on(".menu [data-item='Show everything again']");
    browser.wait("__state.frames.some((f) => f.name === 'sys_read')");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn colours_are_by_module_package_or_kind_and_the_legend_says_which() {
    let Some(mut browser) = Browser::start() else { return };
    let _server = known_page(&mut browser);
    let legend =
        "[...document.querySelectorAll('.key')].map((e) => e.firstChild.nextSibling.textContent).join()";
    check(&mut browser, legend, "alpha,kernel,beta");
    browser.press("c");
    browser.wait("__state.state.color === 'package'");
    browser.press("c");
    browser.wait("__state.state.color === 'kind'");
    check(&mut browser, legend, "user,kernel");
    browser.click_on("[data-color=module]");
    browser.wait("__state.state.color === 'module'");
}

/// Opens the menu of exports and keeps what is saved in `window.__saved` instead of a folder.
fn export(browser: &mut Browser, item: &str) -> String {
    browser.evaluate(
        "window.__saved = null; URL.createObjectURL = (blob) => { \
         blob.arrayBuffer().then((bytes) => (window.__saved = [...new Uint8Array(bytes)])); return 'about:blank'; }; \
         HTMLAnchorElement.prototype.click = function () { window.__name = this.download; }; 0",
    );
    browser.press("e");
    browser.click_on(&format!(".menu [data-item={item:?}]"));
    browser.wait("window.__saved !== null");
    browser.evaluate("window.__name").as_str().expect("a name").to_owned()
}

fn saved_text(browser: &mut Browser) -> String {
    let text = browser.evaluate("new TextDecoder().decode(new Uint8Array(window.__saved))");
    text.as_str().expect("text").to_owned()
}

#[test]
fn what_is_shown_is_a_file_for_other_tools() {
    let Some(mut browser) = Browser::start() else { return };
    let _server = known_page(&mut browser);
    let name = export(&mut browser, "Folded stacks");
    assert!(name.starts_with("all-process_cpu-cpu-") && name.ends_with(".folded"), "{name}");
    let mut lines: Vec<_> = saved_text(&mut browser).lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(
        lines,
        [
            "[no frame pointer];inner 30000000000",
            "begin;<b>bold</b> 60000000000",
            "main;read;sys_read 60000000000",
            "main;work 30000000000",
            "main;work;leaf 60000000000",
        ]
    );
    let name = export(&mut browser, "speedscope");
    assert!(name.ends_with(".speedscope.json"), "{name}");
    let file: serde_json::Value = serde_json::from_str(&saved_text(&mut browser)).expect("JSON");
    assert_eq!(file["profiles"][0]["endValue"], 240_000_000_000_u64);
    let name = export(&mut browser, "SVG");
    assert!(name.ends_with(".svg"), "{name}");
    let picture = saved_text(&mut browser);
    assert!(picture.contains("&lt;b&gt;bold&lt;/b&gt;") && !picture.contains("<b>"));
    check(
        &mut browser,
        "new DOMParser().parseFromString(new TextDecoder().decode(new Uint8Array(__saved)), 'image/svg+xml').querySelector('parsererror') === null",
        "true",
    );
    let name = export(&mut browser, "pprof");
    assert!(name.ends_with(".pb.gz"), "{name}");
    let bytes: Vec<u8> = serde_json::from_value(browser.evaluate("window.__saved")).expect("bytes");
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut plain).expect("gzip");
    let profile = <profiler_daemon::pprof::Profile as prost::Message>::decode(&plain[..]).expect("a pprof");
    let total: i64 = profile.sample.iter().flat_map(|sample| &sample.value).sum();
    assert_eq!(total, 240 * SECOND);
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn a_sandwich_is_saved_with_its_callers() {
    let Some(mut browser) = Browser::start() else { return };
    let _server = known_page(&mut browser);
    browser.evaluate("location.hash = '#view=sandwich&function=work'");
    browser.wait("__state.frames.length === 4");
    export(&mut browser, "Folded stacks");
    let mut lines: Vec<_> = saved_text(&mut browser).lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["main;work 30000000000", "main;work;leaf 60000000000"]);
    export(&mut browser, "SVG");
    let picture = saved_text(&mut browser);
    let y = |name: &str| {
        let (_, after) = picture.split_once(&format!("<title>{name}\n")).unwrap_or_else(|| panic!("{name}"));
        after.split('"').skip_while(|part| !part.ends_with(" y=")).nth(1).map(str::to_owned)
    };
    // From the top: who calls it, itself, what it calls.
    assert_eq!(
        ["main", "work", "leaf"].map(y),
        [Some("34".to_owned()), Some("51".to_owned()), Some("68".to_owned())]
    );
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn what_was_too_thin_to_be_sent_is_said_and_seen_from_near() {
    let Some(mut browser) = Browser::start() else { return };
    let server = Server::start("127.0.0.1:0");
    // More than are sent whatever they weigh: some that can be drawn, some that can from near, and dust.
    let leaves = |branch: &str, count: i64, weight: i64| {
        let stack = |leaf| (format!("main@/opt/w;{branch}@/opt/w;{branch}{leaf}@/opt/w"), weight + leaf);
        (0..count).map(stack).collect::<Vec<_>>()
    };
    let start = now_ns() - 10 * SECOND;
    server.push("wide", start, 10 * SECOND, &leaves("big", 3_600, 100_000));
    server.push("wide", start, 10 * SECOND, &leaves("small", 700, 14_000));
    server.push("wide", start, 10 * SECOND, &leaves("dust", 16_000, 1));
    browser.window(1440, 900, "dark");
    let (from, until) = (start / 1_000_000 - 60_000, start / 1_000_000 + 20_000);
    browser.open(&format!("http://{}/#from={from}&until={until}", server.address));
    browser.wait("window.__state?.frames.some((f) => f.name === 'small')");
    browser.wait("__state.hidden.includes('too thin to draw')");
    // What stands still is the same from near: of the table nothing is made anew.
    browser.wait("(document.querySelector('#functions tbody tr').seen = true)");
    let small = frame(&mut browser, "small").expect("small");
    browser.click(small.x + small.width / 2.0, small.y);
    browser.wait("__state.zoomed === 'small'");
    browser.wait(
        "__state.hidden === '' && __state.frames.filter((f) => f.name.startsWith('small')).length === 701",
    );
    check(&mut browser, "document.querySelector('#functions tbody tr').seen === true", "true");
    // No more was sent than that, and what was there before is there again for who goes elsewhere.
    browser.wait("performance.getEntriesByType('resource').some((e) => e.name.includes('only_below=true'))");
    browser.press("Backspace");
    browser.wait("__state.zoomed === 'main' && __state.frames.some((f) => f.name === 'dust')");
    browser.wait(
        "__state.frames.some((f) => f.name === 'small') && __state.hidden.includes('too thin to draw')",
    );

    // A question about all, whose place a zoom takes, is asked again: its answer is not lost.
    browser.press("Escape");
    browser.wait("__state.zoomed === 'all' && __state.hidden.includes('too thin to draw')");
    browser.wait(
        "(window.held = 0, window.asks = fetch, window.fetch = (url, options) => !url.startsWith('api/services') || held++ > 0 ? asks(url, options) : \
         new Promise((_, fail) => options.signal.addEventListener('abort', () => fail(options.signal.reason))), true)",
    );
    server.push("late", start, 10 * SECOND, &[("main@/opt/late".to_owned(), 1)]);
    browser.press("l");
    browser.wait("held === 1");
    // What is too thin is a fringe below who called it, and leads there.
    let dust = frame(&mut browser, "dust").expect("dust");
    browser.click(dust.x + dust.width / 2.0, dust.y + 21.0);
    browser.wait("__state.zoomed === 'dust'");
    check(&mut browser, "held > 1", "true");
    // None of it can be seen, and all of it is told.
    browser.wait("/^w\\s*100/.test(document.querySelector('#legend').textContent)");
    browser.wait("__state.services.some(({ name }) => name === 'late')");
    check(
        &mut browser,
        "performance.getEntriesByType('resource').filter((e) => e.name.includes('below=')).length > 0",
        "true",
    );
    browser.press("Escape");
    browser.wait("__state.zoomed === 'all' && __state.frames.some((f) => f.name === 'big')");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn what_comes_from_near_is_drawn_with_the_zoom_or_when_it_comes() {
    let Some(mut browser) = Browser::start() else { return };
    let server = Server::start("127.0.0.1:0");
    let start = now_ns() - 10 * SECOND;
    // Frames that are seen from afar, deeper than the graph is high, between them some that are seen from near only, and dust.
    let deep = |name: &str| (0..30).map(|row| format!(";{name}{row}@/opt/w")).collect::<String>();
    let mut stacks = vec![("main@/opt/w;dust@/opt/w".to_owned(), 400 * SECOND)];
    for (name, weight) in [("wide", 40), ("less", 30), ("least", 20)] {
        stacks.push((format!("main@/opt/w;near@/opt/w{}", deep(name)), weight * SECOND));
        stacks.extend((0..100).map(|thin| {
            let weight = SECOND * 35 / 100 + thin * SECOND / 10_000;
            (format!("main@/opt/w;near@/opt/w;{name}0@/opt/w;thin{name}{thin}@/opt/w"), weight)
        }));
    }
    server.push("wide", start, 10 * SECOND, &stacks);
    for half in ["one", "two"] {
        let dust = |leaf| (format!("main@/opt/w;dust@/opt/w;{half}{leaf}@/opt/w"), 1);
        server.push("wide", start, 10 * SECOND, &(0..12_000).map(dust).collect::<Vec<_>>());
    }
    browser.window(1440, 900, "dark");
    let (from, until) = (start / 1_000_000 - 60_000, start / 1_000_000 + 20_000);
    browser.open(&format!("http://{}/#from={from}&until={until}", server.address));
    browser.wait("window.__state?.frames.some((f) => f.name === 'near')");
    // The answer waits.
    browser.evaluate(
        "(() => { const asks = fetch; window.held = new Promise((go) => (window.release = go)); \
         window.fetch = async (url, options) => { const isNear = url.includes('only_below'); if (isNear) await held; \
           const answer = await asks(url, options); if (isNear) window.kept = await answer.clone().arrayBuffer(); return answer; }; \
         window.settled = async () => { for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame); }; })()",
    );
    let near = frame(&mut browser, "near").expect("near");
    browser.click(near.x + near.width / 2.0, near.y);
    browser.wait("__state.zoomed === 'near' && __state.frames.some((f) => f.name === 'wide9')");
    check(&mut browser, "__state.frames.some((f) => f.name.startsWith('thin'))", "false");
    // Until it comes, what is below a frame that is too thin from afar leads there as well.
    let wide = frame(&mut browser, "wide0").expect("wide0");
    let below = frame(&mut browser, "wide1").expect("wide1");
    browser.evaluate("new Promise((go) => setTimeout(go, 400))");
    let ink = |browser: &mut Browser| {
        let seen = browser.evaluate(&format!(
            "(() => {{ const canvas = document.querySelector('#flame'); const {{ x, y }} = canvas.getBoundingClientRect(); \
             const {{ data }} = canvas.getContext('2d').getImageData({} - x, {} - y, 8, 1); \
             return data.filter((value, i) => i % 4 === 3 && value > 0).length; }})()",
            wide.x + wide.width - 12.0,
            below.y
        ));
        seen.as_u64().expect("a number")
    };
    let fringe = ink(&mut browser);
    assert!((2..=6).contains(&fringe), "of eight pixels some are drawn: {fringe}");
    browser.point(wide.x + wide.width - 4.0, below.y);
    browser.wait("__state.tooltip?.startsWith('wide0')");
    browser.evaluate("release()");
    browser.wait("__state.frames.filter((f) => f.name.startsWith('thin')).length === 300");
    // An answer that does not keep one waiting is drawn with the zoom, and who only clicks is told nothing of what they pointed at.
    browser.press("Escape");
    browser.wait("__state.zoomed === 'all' && __state.frames.some((f) => f.name === 'dust')");
    browser.evaluate(
        "(() => { const asks = fetch; window.fetch = async (url, options) => url.includes('only_below') ? new Response(kept) : asks(url, options); \
         const { clearRect } = CanvasRenderingContext2D.prototype; window.draws = 0; \
         CanvasRenderingContext2D.prototype.clearRect = function (...of) { \
           if (this.canvas.id === 'flame') draws++; clearRect.apply(this, of); }; \
         window.tips = 0; new MutationObserver(() => tips++).observe(document.querySelector('.tooltip'), { childList: true }); })()",
    );
    browser.evaluate("new Promise((go) => setTimeout(go, 400)).then(() => { draws = tips = 0; })");
    let near = frame(&mut browser, "near").expect("near");
    browser.click(near.x + near.width / 2.0, near.y);
    browser.wait("__state.frames.filter((f) => f.name.startsWith('thin')).length === 300");
    browser.evaluate("settled()");
    check(&mut browser, "`${draws} ${tips}`", "1 0");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn rows_of_the_table_are_there_when_one_comes_to_them() {
    let Some(mut browser) = Browser::start() else { return };
    let server = Server::start("127.0.0.1:0");
    let stacks: Vec<_> =
        (1..=50).map(|leaf| (format!("leaf{leaf}@/opt/many"), leaf * SECOND / 200)).collect();
    server.push("many", now_ns() - 10 * SECOND, 10 * SECOND, &stacks);
    browser.window(1280, 800, "dark");
    browser.open(&format!("http://{}/", server.address));
    // The lightest is thinner than a pixel.
    browser.wait("window.__state?.frames.length === 50");
    // Below the graph a few are seen, and a few more are made.
    let rows = "document.querySelectorAll('#functions tbody tr').length";
    browser.wait(&format!("{rows} >= 12"));
    check(&mut browser, &format!("{rows} < 30"), "true");
    let scroll = "document.querySelector('#table-scroller').scrollTop = 1e6";
    browser.wait(&format!("({scroll}, {rows} === 30)"));
    check(&mut browser, "document.querySelector('#more').textContent", "Show more (20 left)");
    browser.click_on("#more");
    browser.wait(&format!("({scroll}, {rows} === 50)"));
    check(&mut browser, "document.querySelector('#functions tbody').lastChild.dataset.name", "leaf1");
    // A search begins from above again.
    browser.press("/");
    browser.write("leaf");
    browser.wait(&format!("{rows} < 30"));
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn the_last_row_of_deep_stacks_comes_into_sight_whole_and_nothing_is_below_it() {
    let Some(mut browser) = Browser::start() else { return };
    let server = Server::start("127.0.0.1:0");
    // The deeper one is too thin to be drawn.
    let deep = |name: &str, rows: u32| {
        (0..rows).map(|row| format!("{name}{row}@/opt/deep")).collect::<Vec<_>>().join(";")
    };
    let stacks = [(deep("f", 60), 9 * SECOND), (deep("g", 200), 1000)];
    server.push("deep", now_ns() - 10 * SECOND, 10 * SECOND, &stacks);
    browser.window(1280, 800, "dark");
    browser.open(&format!("http://{}/", server.address));
    browser.wait("window.__state?.frames.some((f) => f.name === 'f9')");
    browser.evaluate("document.querySelector('#flame-scroller').scrollTop = 1e6");
    browser.wait(
        "(() => { const { clientHeight } = document.querySelector('#flame-scroller'); \
         const last = __state.frames.at(-1); \
         return last.name === 'f59' && Math.abs(last.y + 21 - clientHeight) <= 1; })()",
    );
    // Where there is more room it is drawn in before anything is shown.
    let drawn = browser.evaluate(
        "(async () => { const scroller = document.querySelector('#flame-scroller'); scroller.scrollTop = 0; \
         document.querySelector('.profile').style.gridTemplateRows = '640px 380px'; \
         const frame = () => new Promise(requestAnimationFrame); await frame(); await frame(); \
         const canvas = document.querySelector('#flame'); const { clientHeight } = scroller; \
         const ink = canvas.getContext('2d').getImageData(50, clientHeight - 60, 1, 30).data.some((byte) => byte > 0); \
         return `${clientHeight > 500} ${canvas.clientHeight === clientHeight} ${ink}`; })()",
    );
    assert_eq!(drawn, "true true true", "high enough, filled, drawn");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}
