//! Chromium without a window, told what to do over its debugging pipe: messages of JSON with a zero byte behind each.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::wire::process::is_installed;

/// No answer takes as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether it is installed.
pub fn is_here() -> bool {
    is_installed("chromium", "--version")
}

/// A browser; ended when it is dropped.
pub struct Browser {
    child: Child,
    pipe: ChildStdin,
    messages: Receiver<Value>,
    last: u64,
    /// What was heard beside answers.
    events: Vec<Value>,
    _profile: tempfile::TempDir,
}

impl Browser {
    pub fn start() -> Browser {
        let profile = tempfile::tempdir().unwrap();
        // It reads from file 3 and writes to file 4.
        let script = "exec chromium --headless --remote-debugging-pipe --no-sandbox --disable-gpu --disable-quic --no-first-run \
                      --disable-background-networking --disable-component-update --disable-sync --disable-dev-shm-usage \
                      --hide-scrollbars --user-data-dir=\"$0\" 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null";
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(profile.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.env_remove("RATITE_CORPUS").spawn().unwrap();
        let (pipe, out) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(out).split(0) {
                let Ok(message) = message else { return };
                if sender.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    return;
                }
            }
        });
        Browser { child, pipe, messages, last: 0, events: Vec::new(), _profile: profile }
    }

    /// Gives an order and returns what comes of it.
    #[track_caller]
    fn order(&mut self, session: Option<&str>, method: &str, params: &Value) -> Value {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": params });
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        self.pipe.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let mut message = self.messages.recv_timeout(PATIENCE).expect("chromium says nothing");
            if message["id"] == self.last {
                assert_eq!(message.get("error"), None, "{method} {params}");
                return message["result"].take();
            }
            self.events.push(message);
        }
    }

    /// Opens an empty tab as wide as this many pixels of CSS, light or dark.
    pub fn tab(&mut self, width: u32, height: u32, scheme: &str) -> Tab<'_> {
        let target = self.order(None, "Target.createTarget", &json!({ "url": "about:blank" }))["targetId"].take();
        let attached =
            self.order(None, "Target.attachToTarget", &json!({ "targetId": target, "flatten": true }))["sessionId"]
                .take();
        let mut tab = Tab { browser: self, session: attached.as_str().unwrap().to_owned(), target };
        for domain in ["Page", "Runtime", "Network", "Log", "Accessibility"] {
            tab.order(&format!("{domain}.enable"), json!({}));
        }
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 600 });
        tab.order("Emulation.setDeviceMetricsOverride", size);
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        tab.order("Emulation.setEmulatedMedia", features);
        // As if somebody looked.
        tab.order("Emulation.setFocusEmulationEnabled", json!({ "enabled": true }));
        tab
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.pipe.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        // It writes into its profile until its end.
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while std::time::Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A tab; closed when it is dropped.
pub struct Tab<'b> {
    browser: &'b mut Browser,
    session: String,
    target: Value,
}

impl Tab<'_> {
    #[track_caller]
    pub fn order(&mut self, method: &str, params: Value) -> Value {
        let session = self.session.clone();
        self.browser.order(Some(&session), method, &params)
    }

    /// Opens an address and waits until all of it is there.
    #[track_caller]
    pub fn open(&mut self, address: &str) {
        let before = self.events("Page.loadEventFired").len();
        let opened = self.order("Page.navigate", json!({ "url": address }));
        assert_eq!(opened.get("errorText"), None, "{opened}");
        while self.events("Page.loadEventFired").len() == before {
            let event = self.browser.messages.recv_timeout(PATIENCE).expect("the page does not come");
            self.browser.events.push(event);
        }
    }

    /// The value of an expression in JavaScript, which may be a promise.
    #[track_caller]
    pub fn value(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut outcome = self.order("Runtime.evaluate", params);
        assert_eq!(outcome.get("exceptionDetails"), None, "{expression}");
        outcome["result"]["value"].take()
    }

    /// Presses a key, such as Tab.
    pub fn press(&mut self, key: &str, code: u32, text: &str) {
        for kind in ["keyDown", "keyUp"] {
            let mut params =
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
            if kind == "keyUp" || text.is_empty() {
                params.as_object_mut().unwrap().remove("text");
            }
            self.order("Input.dispatchKeyEvent", params);
        }
    }

    /// What a screen reader gets: role and name of everything that has one.
    pub fn heard(&mut self) -> Vec<(String, String)> {
        let tree = self.order("Accessibility.getFullAXTree", json!({}));
        let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        let nodes = tree["nodes"].as_array().unwrap().iter().filter(|node| node["ignored"] == false);
        nodes.map(|node| (text(&node["role"]), text(&node["name"]))).collect()
    }

    /// What this tab has asked for, by method of the event, so far.
    pub fn events(&self, method: &str) -> Vec<&Value> {
        let events = self.browser.events.iter();
        let mine =
            events.filter(|event| event["sessionId"].as_str() == Some(&self.session) && event["method"] == method);
        mine.map(|event| &event["params"]).collect()
    }

    /// The whole page as PNG.
    pub fn picture(&mut self) -> Vec<u8> {
        use base64::Engine as _;
        let shot = self.order("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true }));
        base64::engine::general_purpose::STANDARD.decode(shot["data"].as_str().unwrap()).unwrap()
    }
}

impl Drop for Tab<'_> {
    fn drop(&mut self) {
        // After a failure nothing more may fail.
        if !std::thread::panicking() {
            let target = self.target.take();
            self.browser.order(None, "Target.closeTarget", &json!({ "targetId": target }));
        }
    }
}
