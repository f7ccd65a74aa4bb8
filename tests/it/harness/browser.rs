//! Owns a browser: headless Chromium, spoken to through its driver (the W3C's WebDriver, JSON over HTTP).
//!
//! Needs what `scripts/browser.sh` installs. Every wait is for a condition; the browser ends with its value.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

use serde_json::{Value, json};

use super::{Request, exchange, wait_for, wait_until};

/// What an element is called in the protocol.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one tab.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
}

/// How a browser is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scripts {
    On,
    Off,
}

impl Browser {
    /// Starts one.
    pub fn start(scripts: Scripts) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver: scripts/browser.sh installs it");
        let mut said = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = loop {
            let line = said.next().expect("the driver says its port").unwrap();
            let port = line.split_once("successfully on port ").map(|(_, port)| port.trim_end_matches('.').to_owned());
            if let Some(port) = port {
                break port.parse().unwrap();
            }
        };
        // What it says later has to go somewhere.
        thread::spawn(move || said.for_each(drop));
        let mut browser = Self { driver, port, session: String::new() };
        let mut args = vec!["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1400,1000"];
        // Only loopback is asked; Chromium's own errands are not wanted.
        args.extend(["--disable-background-networking", "--no-first-run", "--disable-component-update"]);
        if rustix::process::geteuid().is_root() {
            args.push("--no-sandbox");
        }
        let allowed = if scripts == Scripts::Off { 2 } else { 1 };
        let options = json!({
            "args": args,
            "prefs": {"profile.managed_default_content_settings.javascript": allowed},
        });
        let wanted = json!({"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}});
        let session = browser.call("POST", "/session", &wanted).unwrap_or_else(|error| panic!("no browser: {error}"));
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        browser
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(|error| error.to_string())?;
        let request = match method {
            "GET" => Request::get(path),
            "DELETE" => Request::new("DELETE", path),
            _ => Request::post(path, body.to_string()).header("Content-Type", "application/json"),
        };
        let request = request.header("Host", format!("127.0.0.1:{}", self.port));
        let answer = exchange(stream, &request).map_err(|error| error.to_string())?.json();
        match answer["value"]["error"].as_str() {
            Some(error) => Err(format!("{error}: {}", answer["value"]["message"])),
            None => Ok(answer["value"].clone()),
        }
    }

    fn ask(&self, path: &str, body: &Value) -> Result<Value, String> {
        self.call("POST", &format!("/session/{}{path}", self.session), body)
    }

    fn told(&self, path: &str) -> Result<Value, String> {
        self.call("GET", &format!("/session/{}{path}", self.session), &Value::Null)
    }

    /// Goes to an address; comes back when the page is there.
    pub fn go(&self, address: &str) {
        self.ask("/url", &json!({"url": address})).unwrap();
    }

    /// Where it is.
    pub fn address(&self) -> String {
        self.told("/url").unwrap().as_str().unwrap().to_owned()
    }

    /// What it shows, as source.
    pub fn source(&self) -> String {
        self.told("/source").unwrap().as_str().unwrap().to_owned()
    }

    fn found(&self, css: &str) -> Result<String, String> {
        let element = self.ask("/element", &json!({"using": "css selector", "value": css}))?;
        Ok(element[ELEMENT].as_str().unwrap().to_owned())
    }

    /// The text of the first element, as it is seen; None if there is no such element now.
    pub fn text(&self, css: &str) -> Option<String> {
        let element = self.found(css).ok()?;
        Some(self.told(&format!("/element/{element}/text")).ok()?.as_str()?.to_owned())
    }

    /// Waits for an element.
    pub fn wait_for(&self, css: &str) -> String {
        wait_for(&format!("{css} in\n{}", self.source()), || self.found(css).ok())
    }

    /// Waits until an element's text has this in it.
    pub fn wait_for_text(&self, css: &str, part: &str) {
        wait_until(&format!("{part:?} in {css} of {}", self.address()), || {
            self.text(css).is_some_and(|text| text.contains(part))
        });
    }

    /// Clicks on an element.
    pub fn click(&self, css: &str) {
        wait_for(&format!("a click on {css} of {}\n{}", self.address(), self.source()), || {
            let element = self.found(css).ok()?;
            self.ask(&format!("/element/{element}/click"), &json!({})).ok()
        });
    }

    /// Types into a field.
    pub fn type_into(&self, css: &str, text: &str) {
        let element = self.wait_for(css);
        self.ask(&format!("/element/{element}/value"), &json!({"text": text})).unwrap();
    }

    /// The value of a script's `return`.
    pub fn run(&self, script: &str) -> Value {
        self.ask("/execute/sync", &json!({"script": script, "args": []})).unwrap()
    }

    /// Asks for the colours of the day or of the night.
    pub fn prefer(&self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        let command = json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}});
        self.ask("/goog/cdp/execute", &command).unwrap();
    }

    /// Makes the window so large.
    pub fn resize(&self, width: u32, height: u32) {
        self.ask("/window/rect", &json!({"width": width, "height": height})).unwrap();
    }

    /// A picture of the page as PNG, into a file in the folder that `STAGEPOST_SCREENSHOTS` names, if it does.
    pub fn picture(&self, name: &str) {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let Some(folder) = env::var_os("STAGEPOST_SCREENSHOTS").map(PathBuf::from) else { return };
        let picture = self.told("/screenshot").unwrap();
        fs::write(folder.join(format!("{name}.png")), STANDARD.decode(picture.as_str().unwrap()).unwrap()).unwrap();
    }

    /// The faults that keep people out which axe finds on the page, the serious and critical ones.
    pub fn faults(&self) -> Vec<String> {
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
        let file = target.join("browser/node_modules/axe-core/axe.min.js");
        let axe = fs::read_to_string(&file).expect("axe-core: scripts/browser.sh installs it");
        self.ask("/execute/sync", &json!({"script": axe, "args": []})).unwrap();
        let script = "const done = arguments[arguments.length - 1];
            axe.run(document, {resultTypes: ['violations']}).then(
                (found) => done(found.violations.filter((fault) => ['serious', 'critical'].includes(fault.impact)).map(
                    (fault) => fault.id + ': ' + fault.help + ': ' + fault.nodes.map((node) => node.html + ' ' + node.failureSummary).join('; '))),
                (error) => done(['axe itself: ' + error]));";
        let faults = self.ask("/execute/async", &json!({"script": script, "args": []})).unwrap();
        faults.as_array().unwrap().iter().map(|fault| fault.as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _gone = self.call("DELETE", &format!("/session/{}", self.session), &Value::Null);
        }
        let _gone = self.driver.kill();
        let _gone = self.driver.wait();
    }
}
