//! Protected events: only their author may bring them to a relay (NIP-70).

use super::event::Event;
use super::json::{self, JsonError, Scanner};
use super::kind::Kind;

/// Whether the event is protected: a tag is named `-`, whatever else stands in it (N70-05).
pub fn is_protected(event: &Event) -> bool {
    event.tags.iter().any(|tag| tag.name() == "-")
}

/// Whether the event is a repost whose content holds a protected event (N70-04). The content is read as JSON: text that merely
/// looks like the tag protects nothing, and the tag written with escapes hides nothing.
pub fn reposts_protected(event: &Event) -> bool {
    matches!(event.kind, Kind::REPOST | Kind::GENERIC_REPOST) && holds_protected(&event.content)
}

fn holds_protected(content: &str) -> bool {
    if !content.trim_start().starts_with('{') {
        return false;
    }
    match json::with_scratch(|scratch| scan(&mut Scanner::lenient(content), scratch)) {
        Ok(protected) => protected,
        // Others may read deeper than we do; what is not JSON nobody reads.
        Err(error) => error.is_too_deep(),
    }
}

fn scan(scanner: &mut Scanner<'_>, scratch: &mut String) -> Result<bool, JsonError> {
    let mut protected = false;
    let mut first = true;
    if !scanner.enter_object()? {
        return Ok(false);
    }
    while let Some(name) = scanner.next_member(&mut first, scratch)? {
        // Of members of one name some readers take the first, some the last: any counts.
        if name == "tags" && scanner.enter_array()? {
            let mut first = true;
            while scanner.next_element(&mut first)? {
                protected |= scan_tag(scanner, scratch)?;
            }
        } else {
            scanner.skip_value()?;
        }
    }
    scanner.end()?;
    Ok(protected)
}

/// Reads one element of a list of tags; whether it is the tag that protects.
fn scan_tag(scanner: &mut Scanner<'_>, scratch: &mut String) -> Result<bool, JsonError> {
    if !scanner.enter_array()? {
        scanner.skip_value()?;
        return Ok(false);
    }
    let mut protects = false;
    let (mut first, mut is_name) = (true, true);
    while scanner.next_element(&mut first)? {
        if is_name && scanner.peek() == Some(b'"') {
            // A name that is no text, a lone surrogate say, is not this one.
            let mut ahead = scanner.clone();
            protects = ahead.string(scratch).is_ok_and(|name| name == "-");
        }
        is_name = false;
        scanner.skip_value()?;
    }
    Ok(protects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h096_h097_h098_n70_04_reposted_tags_are_read_not_searched_for() {
        for protected in [
            r#"{"tags":[["-"]],"content":""}"#,
            r#"{"tags":[["e","x"],[ "\u002d" , "more"]]}"#,
            r#" {"\u0074ags":[["-"]]} "#,
            r#"{"tags":[],"tags":[["-"]]}"#,
            r#"{"tags":[["-"]],"tags":[]}"#,
            r#"{"content":"\ud800","tags":[["\ud800"],["-"]]}"#,
        ] {
            assert!(holds_protected(protected), "{protected}");
        }
        let deep = format!("{{\"x\":{}{},\"tags\":[[\"-\"]]}}", "[".repeat(40), "]".repeat(40));
        assert!(holds_protected(&deep), "deeper than is read here, but not than elsewhere");
        for fine in [
            "",
            r#"["-"]"#,
            r#"{"content":"[\"-\"]","tags":[]}"#,
            r#"{"content":"\"tags\":[[\"-\"]]"}"#,
            r#"{"tags":[["x","-"],["--"],[],"-",5,{"-":1}]}"#,
            r#"{"tags":"-"}"#,
            r#"{"inner":{"tags":[["-"]]}}"#,
            r#"{"tags":[["-"]]"#,
            r#"{"tags":[["-"]]} and more"#,
        ] {
            assert!(!holds_protected(fine), "{fine}");
        }
    }
}
