//! Whether an answer is the model's or a default output, by a scan of its body.
//!
//! Any server may be measured; one that does not write `"default": true` gives no defaults. A model whose own output holds that field is
//! misjudged: parsing each answer would cost the generator as much as the server.

use memchr::memmem;

/// What the reasons of defaults are called that give none.
const NO_REASON: &str = "no_reason";

/// The reason of the first default output of an answer, if it has any.
pub fn default_reason(body: &[u8]) -> Option<&str> {
    let at = memmem::find_iter(body, b"\"default\":")
        .find(|&at| after(body, at + b"\"default\":".len()).starts_with(b"true"))?;
    let rest = &body[at..];
    let reason = memmem::find(rest, b"\"default_reason\":").and_then(|start| {
        let value = after(rest, start + b"\"default_reason\":".len()).strip_prefix(b"\"")?;
        let end = memchr::memchr(b'"', value)?;
        std::str::from_utf8(&value[..end]).ok()
    });
    Some(reason.unwrap_or(NO_REASON))
}

/// What follows, without white space.
fn after(body: &[u8], start: usize) -> &[u8] {
    body[start..].trim_ascii_start()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_output_is_told_with_its_reason() {
        for (body, reason) in [
            (r#"{"query_id":1,"output":3.5,"default":false}"#, None),
            (r#"{"query_id":1,"output":-1,"default":true,"default_reason":"deadline"}"#, Some("deadline")),
            (
                r#"{"output": -1, "default": true, "default_reason": "queue_full", "x": 1}"#,
                Some("queue_full"),
            ),
            (r#"{"output":"a","default":true}"#, Some("no_reason")),
            (r#"{"batch_predictions":[{"default":false},{"default":true,"default_reason":"d"}]}"#, Some("d")),
            (r#"{"output":"\"default\":true","default":false}"#, None),
            ("", None),
            (r#"{"default":"#, None),
        ] {
            assert_eq!(default_reason(body.as_bytes()), reason, "{body}");
        }
    }
}
