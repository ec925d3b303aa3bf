//! A headless Chromium, driven over a pipe.
//!
//! In: a page's address, clicks, keys. Out: what the page says of itself, and pictures. The DevTools protocol is spoken over
//! two pipes (`--remote-debugging-pipe`), so there is no port, no socket and nothing to install beside the browser.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use profiler_tests::harness::gate::{self, Missing};
use serde_json::{Value, json};

/// The longest that anything in a page may take here; a machine that runs other tests is slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// A browser with one page.
pub(crate) struct Browser {
    process: Child,
    commands: ChildStdin,
    answers: Receiver<Value>,
    session: String,
    next: u64,
    /// Errors and warnings that the page wrote on its console, policy violations among them.
    pub(crate) complaints: Vec<String>,
    profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one; `None`, said aloud, where there is no Chromium. With `TEST_REQUIRE_BROWSER=1` that is a failure.
    pub(crate) fn start() -> Option<Self> {
        let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
        let found = names.iter().find(|name| {
            let known =
                Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            known.is_ok_and(|status| status.success())
        });
        let Some(program) = found else {
            let test = std::thread::current().name().unwrap_or("a test in a browser").to_owned();
            gate::skip(
                &test,
                &Missing { required_by: "TEST_REQUIRE_BROWSER", what: "no Chromium".to_owned() },
            );
            return None;
        };
        let profile = tempfile::tempdir().expect("a directory for the browser");
        // The browser speaks on its descriptors 3 and 4; the shell puts ours there.
        let mut process = Command::new("sh")
            .arg("-c")
            .arg("exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>/dev/null")
            .arg(program)
            .args([
                "--headless=new",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
            ])
            .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
            .args([
                "--disable-dev-shm-usage",
                "--mute-audio",
                "--no-proxy-server",
                "--force-device-scale-factor=1",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh");
        let commands = process.stdin.take().expect("piped");
        let answers = listen(process.stdout.take().expect("piped"));
        let mut browser =
            Self { process, commands, answers, session: String::new(), next: 0, complaints: vec![], profile };
        let targets = browser.call("Target.getTargets", json!({}));
        let page = targets["targetInfos"].as_array().expect("targets").iter().find(|t| t["type"] == "page");
        let id = page.expect("a page")["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({"targetId": id, "flatten": true}));
        browser.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// One command and its answer.
    pub(crate) fn call(&mut self, method: &str, parameters: impl Into<Value>) -> Value {
        self.next += 1;
        let id = self.next;
        let mut command = json!({"id": id, "method": method, "params": parameters.into()});
        if !self.session.is_empty() {
            command["sessionId"] = json!(self.session);
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).expect("the browser is there");
        loop {
            let message =
                self.answers.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no answer to {method}"));
            self.heed(&message);
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
        }
    }

    fn heed(&mut self, message: &Value) {
        let parameters = &message["params"];
        match message["method"].as_str() {
            Some("Log.entryAdded") if parameters["entry"]["level"] == "error" => {
                self.complaints.push(parameters["entry"].to_string());
            }
            Some("Runtime.exceptionThrown") => {
                self.complaints.push(parameters["exceptionDetails"].to_string())
            }
            Some("Runtime.consoleAPICalled")
                if parameters["type"] == "error" || parameters["type"] == "warning" =>
            {
                self.complaints.push(parameters["args"].to_string());
            }
            _ => {}
        }
    }

    /// The value of an expression in the page.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let answer = self.call(
            "Runtime.evaluate",
            json!({"expression": expression, "returnByValue": true, "awaitPromise": true}),
        );
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// Waits until an expression in the page is true.
    #[track_caller]
    pub(crate) fn wait(&mut self, expression: &str) {
        let began = Instant::now();
        while self.evaluate(&format!("Boolean({expression})")) != true {
            assert!(
                began.elapsed() < PATIENCE,
                "never true: {expression}\nstate: {}\ncomplaints: {:?}",
                self.evaluate("JSON.stringify(window.__state ?? null)").as_str().unwrap_or_default(),
                self.complaints
            );
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Sets size and theme of the window.
    pub(crate) fn window(&mut self, width: u32, height: u32, theme: &str) {
        let mobile = width < 600;
        self.call(
            "Emulation.setDeviceMetricsOverride",
            json!({"width": width, "height": height, "deviceScaleFactor": if mobile { 2 } else { 1 }, "mobile": mobile}),
        );
        let features = json!([{"name": "prefers-color-scheme", "value": theme}, {"name": "prefers-reduced-motion", "value": "reduce"}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Opens an address.
    pub(crate) fn open(&mut self, address: &str) {
        self.call("Page.navigate", json!({"url": address}));
        self.wait("document.readyState === 'complete'");
    }

    /// Moves the pointer.
    pub(crate) fn point(&mut self, x: f64, y: f64) {
        self.call("Input.dispatchMouseEvent", json!({"type": "mouseMoved", "x": x, "y": y}));
    }

    /// Presses, moves and releases.
    pub(crate) fn drag(&mut self, from: (f64, f64), to: (f64, f64)) {
        self.point(from.0, from.1);
        let button = |kind: &str, (x, y): (f64, f64)| json!({"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1});
        self.call("Input.dispatchMouseEvent", button("mousePressed", from));
        if from != to {
            self.call("Input.dispatchMouseEvent", button("mouseMoved", to));
        }
        self.call("Input.dispatchMouseEvent", button("mouseReleased", to));
    }

    /// Clicks.
    pub(crate) fn click(&mut self, x: f64, y: f64) {
        self.drag((x, y), (x, y));
    }

    /// Clicks with the right button.
    pub(crate) fn right_click(&mut self, x: f64, y: f64) {
        self.point(x, y);
        for (kind, buttons) in [("mousePressed", 2), ("mouseReleased", 0)] {
            self.call(
                "Input.dispatchMouseEvent",
                json!({"type": kind, "x": x, "y": y, "button": "right", "buttons": buttons, "clickCount": 1}),
            );
        }
    }

    /// Clicks in the middle of an element.
    #[track_caller]
    pub(crate) fn click_on(&mut self, selector: &str) {
        let expression = format!(
            "(() => {{ const e = document.querySelector({selector:?}); if (!e) return null; e.scrollIntoView({{block: 'nearest'}}); \
             const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }})()"
        );
        let place = self.evaluate(&expression);
        let at = |index: usize| place[index].as_f64().unwrap_or_else(|| panic!("no {selector}"));
        self.click(at(0), at(1));
    }

    /// Presses a key such as `Escape`, `/` or `a`.
    pub(crate) fn press(&mut self, key: &str) {
        let code = match key {
            "Escape" => 27,
            "Backspace" => 8,
            "Enter" => 13,
            "ArrowDown" => 40,
            "ArrowLeft" => 37,
            "ArrowUp" => 38,
            "ArrowRight" => 39,
            "Tab" => 9,
            _ => 0,
        };
        let mut down = json!({"type": "keyDown", "key": key, "windowsVirtualKeyCode": code});
        if key.chars().count() == 1 {
            down["text"] = json!(key);
        } else if key == "Enter" {
            // Without it no button is pressed.
            down["text"] = json!("\r");
        }
        self.call("Input.dispatchKeyEvent", down);
        self.call("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key}));
    }

    /// Writes text where the focus is.
    pub(crate) fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text}));
    }

    /// Keeps a picture of the window.
    pub(crate) fn picture(&mut self, file: &Path) {
        let answer = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let png = base64::Engine::decode(
            &base64::engine::general_purpose::STANDARD,
            answer["data"].as_str().expect("a picture"),
        );
        std::fs::write(file, png.expect("base64")).expect("a place for the picture");
    }
}

/// Reads messages, each ended by a zero byte, for as long as the browser lives.
fn listen(output: ChildStdout) -> Receiver<Value> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut message = Vec::new();
        while output.read_until(0, &mut message).is_ok_and(|read| read > 0) {
            message.pop();
            let Ok(value) = serde_json::from_slice(&message) else { return };
            if send.send(value).is_err() {
                return;
            }
            message.clear();
        }
    });
    receive
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It has helpers that write into its directory until they are gone.
        let _ = self.commands.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let began = Instant::now();
        while self.process.try_wait().is_ok_and(|status| status.is_none()) {
            if began.elapsed() > Duration::from_secs(5) {
                let _ = self.process.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.profile.path();
    }
}
