//! Several calls, read from standard input, one line of JSON each.

use std::io::BufRead;

use roster::thrift::idl;
use serde::Deserialize;
use serde_json::{Value, json};

use super::service_and_method;

/// A line that is not a call.
#[derive(Debug, thiserror::Error)]
#[error("line {number} is no call: {why}; expected {{\"call\": \"SERVICE.METHOD\", \"arguments\": …}}")]
pub(crate) struct Unreadable {
    number: usize,
    why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    call: String,
    #[serde(default)]
    arguments: Option<Value>,
}

/// The calls of all lines; empty lines are skipped.
pub(super) fn read(input: impl BufRead) -> anyhow::Result<Vec<idl::Call>> {
    let mut calls = Vec::new();
    for (number, line) in (1..).zip(input.lines()) {
        let line = line?;
        if !line.trim().is_empty() {
            calls.push(call(&line).map_err(|why| Unreadable { number, why })?);
        }
    }
    Ok(calls)
}

fn call(line: &str) -> Result<idl::Call, String> {
    let Line { call, arguments } = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let (service, method) = service_and_method(&call)?;
    let arguments = match arguments.unwrap_or_else(|| json!([])) {
        arguments @ (Value::Array(_) | Value::Object(_)) => arguments,
        _ => return Err("its arguments are neither a list nor an object".into()),
    };
    Ok(idl::Call::of(service, method, arguments.to_string()))
}

/// The name of a call in the output.
pub(super) fn name(call: &idl::Call) -> String {
    format!("{}.{}", call.service_name, call.method)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(text: &str) -> anyhow::Result<Vec<(String, String)>> {
        let calls = read(text.as_bytes())?;
        let arguments = |call: &idl::Call| String::from_utf8(call.arguments.clone().expect("arguments")).expect("JSON");
        Ok(calls.iter().map(|call| (name(call), arguments(call))).collect())
    }

    #[test]
    fn each_line_is_a_call_and_a_line_that_is_none_is_named() {
        let lines = "{\"call\": \"a.b.c\", \"arguments\": {\"x\": 1}}\n\n{\"call\":\"m.n\"}\n";
        let expected = [("a.b.c", "{\"x\":1}"), ("m.n", "[]")].map(|(name, of)| (name.to_owned(), of.to_owned()));
        assert_eq!(reads(lines).expect("two calls"), expected);
        for (line, why) in [
            ("mail.send", "expected value"),
            ("{\"call\": \"mail\"}", "expected SERVICE.METHOD"),
            ("{\"call\": \"m.n\", \"arguments\": 7}", "neither a list nor an object"),
            ("{\"call\": \"m.n\", \"args\": []}", "unknown field"),
        ] {
            let error = reads(&format!("{{\"call\":\"m.n\"}}\n{line}")).expect_err("a mistake").to_string();
            assert!(error.starts_with("line 2 is no call: ") && error.contains(why), "{error}");
        }
    }
}
