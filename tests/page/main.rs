//! The page at `/` in a browser: Chromium, where it is installed. With `RATITE_SCREENSHOTS` naming a folder, what it looks like is
//! written there for people to look at.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod chromium;
#[path = "../wire/mod.rs"]
mod wire;

use std::path::Path;

use chromium::{Browser, Tab};
use ratite::config::{Config, Sources, load};
use serde_json::Value;
use tempfile::TempDir;
use wire::{TestRelay, event, eventually};

/// A PNG with a gradient.
fn png(width: u32, height: u32) -> Vec<u8> {
    use std::io::Write as _;
    let chunk = |kind: &[u8], data: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(kind);
        crc.update(data);
        [&(data.len() as u32).to_be_bytes(), kind, data, &crc.sum().to_be_bytes()].concat()
    };
    let mut pixels = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    for y in 0..height {
        pixels.write_all(&[0]).unwrap();
        for x in 0..width {
            pixels.write_all(&[(90 + 120 * x / width) as u8, (60 + 100 * y / height) as u8, 200]).unwrap();
        }
    }
    let head = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let parts = [chunk(b"IHDR", &head), chunk(b"IDAT", &pixels.finish().unwrap()), chunk(b"IEND", b"")];
    [b"\x89PNG\r\n\x1a\n".to_vec(), parts.concat()].concat()
}

/// A configuration with everything that the page can show.
fn full(folder: &Path) -> Config {
    std::fs::write(folder.join("icon.png"), png(128, 128)).unwrap();
    std::fs::write(folder.join("banner.png"), png(1200, 300)).unwrap();
    let settings = [
        ("INFO_NAME", "Kiwi relay"),
        (
            "INFO_DESCRIPTION",
            "A relay for people who walk in the bush at night.\n\nAnyone may read. Be kind; what is sold here is deleted.",
        ),
        ("INFO_PUBKEY", "npub180cvv07tjdrrgpa0j7j7tmnyl2yr6yr7l8j4s3evf6u64th6gkwsyjh6w6"),
        ("INFO_CONTACT", "mailto:operator@relay.example.org"),
        ("INFO_TERMS_OF_SERVICE", "https://relay.example.org/terms"),
        ("INFO_ICON_FILE", folder.join("icon.png").to_str().unwrap()),
        ("INFO_BANNER_FILE", folder.join("banner.png").to_str().unwrap()),
    ]
    .map(|(name, value)| (format!("RATITE_{name}").into(), value.into()));
    let sources = Sources { file: Some("/dev/null".into()), environment: settings.into(), ..Sources::default() };
    let loaded = load(sources).unwrap();
    assert_eq!(loaded.warnings, []);
    loaded.config
}

fn relay(folder: &Path) -> TestRelay {
    let Config { info, .. } = full(folder);
    TestRelay::with(|config| config.info = info)
}

/// A folder, a relay in it that has all there is to show, and a browser; `None` where there is none.
fn opened() -> Option<(TempDir, TestRelay, Browser)> {
    let folder = chromium::is_here().then(|| tempfile::tempdir().unwrap())?;
    let relay = relay(folder.path());
    Some((folder, relay, Browser::start()))
}

fn home(relay: &TestRelay) -> String {
    format!("http://{}/", relay.address)
}

/// Writes what the page looks like, when somebody wants to see it.
fn show(tab: &mut Tab<'_>, name: &str) {
    if let Some(folder) = std::env::var_os("RATITE_SCREENSHOTS") {
        std::fs::write(Path::new(&folder).join(format!("{name}.png")), tab.picture()).unwrap();
    }
}

/// Nothing went wrong, and nobody else was asked for anything.
fn assert_quiet(tab: &mut Tab<'_>, home: &str) {
    for method in ["Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Network.loadingFailed"] {
        assert_eq!(tab.events(method), [&Value::Null; 0], "{method}");
    }
    let asked = tab.events("Network.requestWillBeSent");
    let asked: Vec<&str> = asked.iter().map(|request| request["request"]["url"].as_str().unwrap()).collect();
    assert!(asked.contains(&home), "{asked:?}");
    assert!(asked.iter().all(|url| url.starts_with(home) || url.starts_with("data:image/svg+xml")), "{asked:?}");
}

/// Every text against what lies behind it, as WCAG 2 reckons: the worst ratio, and whose it is.
const CONTRAST: &str = "(() => {
    const parts = color => color.match(/[\\d.]+/g).map(Number);
    const light = color => {
        const [r, g, b] = parts(color).map(v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = element => {
        for (let e = element; e; e = e.parentElement) {
            const color = getComputedStyle(e).backgroundColor;
            if ((parts(color)[3] ?? 1) === 1) { return color; }
        }
        return 'rgb(255, 255, 255)';
    };
    let worst = [99, ''];
    for (const e of document.querySelectorAll('body *')) {
        const says = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
        if (!says || !e.offsetParent) { continue; }
        const [a, b] = [light(getComputedStyle(e).color), light(behind(e))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < worst[0]) { worst = [ratio, e.outerHTML.slice(0, 80)]; }
    }
    return worst;
})()";

#[test]
fn the_page_is_quiet_and_fits_phones_and_desks_light_and_dark() {
    let Some((_folder, relay, mut browser)) = opened() else { return };
    let home = home(&relay);
    let mut papers = Vec::new();
    for (name, width, height) in [("phone", 360, 740), ("small", 320, 480), ("desk", 1280, 900)] {
        for scheme in ["light", "dark"] {
            let mut tab = browser.tab(width, height, scheme);
            tab.open(&home);
            let wide = tab.value("document.documentElement.scrollWidth");
            assert!(wide.as_u64().unwrap() <= width.into(), "{name}: one has to scroll sideways, to {wide}");
            let contrast = tab.value(CONTRAST);
            assert!(contrast[0].as_f64().unwrap() >= 4.5, "{name} {scheme}: {contrast}");
            papers.push(tab.value("getComputedStyle(document.body).backgroundColor"));
            // Fingers are thick (WCAG 2.5.8): what can be pressed is 24 pixels high and wide, but for links within text.
            let thin = tab.value(
                "[...document.querySelectorAll('button, .nips a')].filter(e => e.offsetHeight < 24 || e.offsetWidth < 24).length",
            );
            assert_eq!(thin, 0, "{name}");
            let pictures = tab.value("[...document.images].map(i => [i.complete, i.naturalWidth])");
            assert_eq!(pictures, serde_json::json!([[true, 1200], [true, 128]]));
            assert_quiet(&mut tab, &home);
            show(&mut tab, &format!("{name}-{scheme}"));
        }
    }
    assert!(papers[0] != papers[1], "dark is not light");
    assert_eq!((&papers[0], &papers[1]), (&papers[4], &papers[5]));
}

#[test]
fn whatever_an_operator_writes_fits_the_smallest_phone() {
    if !chromium::is_here() {
        return;
    }
    let relay = TestRelay::with(|config| {
        config.info.name = "Waldeinsamkeitsliebhaber".repeat(4);
        config.info.description = format!("{}\n\n{}", "x".repeat(400), "مرحبا بكم في هذا المرحل. ".repeat(8));
        config.info.url = format!("wss://{}.example.org/{}", "relay".repeat(12), "path".repeat(40));
        config.info.contact = format!("mailto:{}@relay.example.org", "somebody".repeat(8));
        config.info.terms_of_service = format!("https://relay.example.org/{}", "terms".repeat(40));
        config.info.pubkey = None;
        config.policy.min_pow_difficulty = 24;
        config.membership.enabled = true;
        config.membership.restrict_reads = true;
        config.limits.max_message_length = 64 << 20;
        config.limits.max_event_tags = 100_000;
    });
    let mut browser = Browser::start();
    for (scheme, width) in [("light", 320), ("dark", 320), ("dark", 1280)] {
        let mut tab = browser.tab(width, 700, scheme);
        tab.open(&home(&relay));
        let wide = tab.value("document.documentElement.scrollWidth");
        assert!(wide.as_u64().unwrap() <= width.into(), "one has to scroll sideways, to {wide}");
        // Nor does anything hang out of its box.
        let outside = tab.value(
            "[...document.querySelectorAll('body *')].filter(e => e.tagName !== 'INPUT' && e.scrollWidth > e.clientWidth + 1 && \
             e.clientWidth > 0).map(e => e.outerHTML.slice(0, 80))",
        );
        assert_eq!(outside, serde_json::json!([]));
        let shown = tab.value("document.body.innerText");
        assert!(shown.as_str().unwrap().contains("Only members may read."), "{shown}");
        // Scripts are read in their own direction.
        assert_eq!(
            tab.value("[...document.querySelectorAll('main > p')].map(p => getComputedStyle(p).direction)[1]"),
            "rtl"
        );
        assert_quiet(&mut tab, &home(&relay));
        show(&mut tab, &format!("extreme-{scheme}-{width}"));
    }
}

#[test]
fn figures_change_while_one_looks() {
    let Some((_folder, relay, mut browser)) = opened() else { return };
    let home = home(&relay);
    let mut tab = browser.tab(800, 900, "light");
    tab.open(&home);
    let figure = |tab: &mut Tab<'_>, name: &str| {
        let text = tab.value(&format!("document.getElementById('{name}').textContent"));
        text.as_str().unwrap().to_owned()
    };
    assert_eq!((figure(&mut tab, "events"), figure(&mut tab, "clients")), ("0".to_owned(), "0".to_owned()));
    let mut socket = relay.connect();
    for author in 1..=3 {
        socket.publish(&event(author, 1, "seen on the page"));
        assert_eq!(socket.hear()[2], true);
    }
    // It looks every ten seconds.
    let began = std::time::Instant::now();
    while (figure(&mut tab, "events"), figure(&mut tab, "clients")) != ("3".to_owned(), "1".to_owned()) {
        assert!(began.elapsed() < 3 * wire::PATIENCE, "{} events", figure(&mut tab, "events"));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    drop(socket);
    // And at once when one comes back to it.
    eventually("the client is gone", || {
        tab.value("document.dispatchEvent(new Event('visibilitychange'))");
        figure(&mut tab, "clients") == "0"
    });
    assert_quiet(&mut tab, &home);
    drop(tab);
    // The drawing, with more than there is time to wait for.
    let mut tab = browser.tab(800, 900, "light");
    tab.open(&home);
    tab.value(
        "window.fetch = () => Promise.resolve({ json: () => ({ events: 1234567, clients: 1000, \
         minutes: Array.from({ length: 60 }, (_, i) => i * i) }) }); document.dispatchEvent(new Event('visibilitychange'))",
    );
    eventually("what comes is shown", || figure(&mut tab, "events") == "1,234,567");
    assert_eq!((figure(&mut tab, "clients").as_str(), figure(&mut tab, "minute").as_str()), ("1,000", "3,481"));
    assert!(figure(&mut tab, "chart").ends_with("over the last hour, 3,481 at most."));
    assert_eq!(tab.value("document.getElementById('bars').getAttribute('d').match(/M/g).length"), 59);
    let drawn =
        tab.value("(b => [b.width > 0, b.height > 0])(document.getElementById('bars').getBoundingClientRect())");
    assert_eq!(drawn, serde_json::json!([true, true]));
    show(&mut tab, "busy");
    assert_quiet(&mut tab, &home);
}

#[test]
fn all_of_it_can_be_reached_without_a_mouse_and_heard() {
    let Some((_folder, relay, mut browser)) = opened() else { return };
    let home = home(&relay);
    let mut tab = browser.tab(800, 900, "light");
    tab.open(&home);
    let count = tab.value("document.querySelectorAll('a[href], button').length").as_u64().unwrap();
    assert!(count > 10, "{count} places to go");
    let (mut reached, mut unseen) = (std::collections::BTreeSet::new(), Vec::new());
    for _ in 0..count {
        tab.press("Tab", 9, "");
        let at = tab.value(
            "(e => [[...document.querySelectorAll('*')].indexOf(e), getComputedStyle(e).outlineStyle, e.outerHTML])(document.activeElement)",
        );
        if at[1] == "none" {
            unseen.push(at[2].to_string());
        }
        reached.insert(at[0].as_u64().unwrap());
    }
    assert_eq!(reached.len() as u64, count, "each key press leads to another place");
    assert_eq!(unseen, [""; 0], "and one sees where one is");

    // The button, by its key.
    tab.value("document.getElementById('copy').focus()");
    tab.press("Enter", 13, "\r");
    eventually("it says that it has copied", || tab.value("document.getElementById('copy').textContent") == "Copied");
    tab.order("Page.bringToFront", serde_json::json!({}));
    let heard = tab.heard();
    let has = |role: &str, name: &str| heard.iter().any(|(r, n)| r == role && n.contains(name));
    for (role, name) in [
        ("RootWebArea", "Kiwi relay"),
        ("heading", "Kiwi relay"),
        ("main", ""),
        ("contentinfo", ""),
        ("region", "Connect"),
        ("region", "Right now"),
        ("region", "Rules"),
        ("region", "Limits"),
        ("button", "Copied"),
        ("image", "Events per minute over the last hour"),
        ("link", "operator@relay.example.org"),
        ("link", "NIP-01"),
        ("StaticText", "Events stored"),
    ] {
        assert!(has(role, name), "no {role} {name:?} in {heard:?}");
    }
    // What can be used and what is drawn has a name; the operator's pictures are passed over.
    let nameless: Vec<_> = heard
        .iter()
        .filter(|(role, name)| ["link", "button", "image"].contains(&role.as_str()) && name.is_empty())
        .collect();
    assert!(nameless.is_empty(), "{nameless:?}");
    assert_eq!(heard.iter().filter(|(role, _)| role == "image").count(), 1);
    assert_eq!(tab.value("document.documentElement.lang"), "en");
    assert_quiet(&mut tab, &home);
}

#[test]
fn without_javascript_nothing_is_missing() {
    let Some((_folder, relay, mut browser)) = opened() else { return };
    let mut socket = relay.connect();
    socket.publish(&event(1, 1, "counted"));
    assert_eq!(socket.hear()[2], true);
    let home = home(&relay);
    let mut tab = browser.tab(360, 740, "light");
    tab.order("Emulation.setScriptExecutionDisabled", serde_json::json!({ "value": true }));
    eventually("the event is counted", || {
        tab.open(&home);
        tab.value("document.getElementById('events').textContent") == "1"
    });
    let text = tab.value("document.body.innerText");
    let text = text.as_str().unwrap();
    for part in ["Kiwi relay", "walk in the bush", &format!("ws://{}", relay.address), "Clients connected", "128 KiB"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("Copy\n"), "what does nothing is not there");
    assert_eq!(tab.value("document.getElementById('copy').checkVisibility()"), false);
    show(&mut tab, "without-javascript");
    assert_quiet(&mut tab, &home);
}

#[test]
fn what_the_page_may_not_do_shows() {
    // So that the tests above would notice: the same page does something that its policy forbids.
    let Some((_folder, relay, mut browser)) = opened() else { return };
    let mut tab = browser.tab(800, 900, "light");
    tab.open(&home(&relay));
    tab.value("document.body.appendChild(Object.assign(new Image(), { src: 'http://127.0.0.1:9/x.png' })), 0");
    eventually("the browser complains", || {
        tab.value("0");
        !tab.events("Log.entryAdded").is_empty()
    });
    assert!(tab.events("Log.entryAdded")[0]["entry"]["text"].as_str().unwrap().contains("Content Security Policy"));
}
