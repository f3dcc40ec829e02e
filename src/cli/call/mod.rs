//! `roster call`: calls a method on one master, or on all; or several methods in order on one.

mod in_order;
mod outcomes;
mod stream_in;

use clap::Args;
use roster::resolve::Requirement;
use roster::thrift::idl;
use serde_json::{Map, Value, json};

pub(super) use self::in_order::Unreadable;
pub(super) use self::outcomes::{SomeFailed, print_values};
use self::outcomes::{document, print_outcomes};
use super::connection::Connection;
use super::{Output, json, known};

/// Call a method of a service
///
/// Each value that the method returns is printed on a line, as JSON, as soon as it arrives; with --all or -o json, once
/// all have arrived. Arguments are given by name, or with --json.
///
/// With --in-order, several calls are read from standard input, one line of JSON each: `{"call": "mail.send",
/// "arguments": {"to": "a@b.c"}}`, with the arguments as for --json, or without. They go to one master, each after the
/// previous one has ended; the time-out applies to each.
#[derive(Debug, Args)]
pub(crate) struct Call {
    /// What to call
    #[arg(value_name = "SERVICE.METHOD", value_parser = service_and_method, required_unless_present = "in_order")]
    what: Option<(String, String)>,
    /// Arguments by name; a value that is not JSON is a string
    #[arg(value_name = "KEY=VALUE", value_parser = key_and_value, conflicts_with = "json")]
    arguments: Vec<(String, Value)>,
    /// All arguments: a list, or an object by parameter name
    #[arg(long, value_name = "TEXT", value_parser = list_or_object)]
    json: Option<Value>,
    /// Call every master that offers it, with --version only those whose version matches
    #[arg(long, conflicts_with = "master")]
    all: bool,
    /// Call the master with this id
    #[arg(long, value_name = "ID")]
    master: Option<String>,
    /// Call one that offers it with this metadata; if repeated, with all of them
    #[arg(long, value_name = "KEY=VALUE", value_parser = known::metadatum, conflicts_with_all = ["all", "master"])]
    metadata: Vec<(String, String)>,
    /// Make several calls on one master, one after the other
    #[arg(long, conflicts_with_all = ["what", "arguments", "json", "all", "metadata"])]
    in_order: bool,
    /// Send the lines of standard input to the method while it runs, each as JSON if it is valid JSON, otherwise as a
    /// string
    #[arg(long, conflicts_with_all = ["in_order", "all", "metadata", "idempotent", "output"])]
    stream_in: bool,
    /// The call may be executed twice: a lost one is retried on another master
    #[arg(long)]
    idempotent: bool,
    /// A version requirement in Composer's syntax, such as `^1.2` [default: the newest]
    #[arg(long, value_name = "REQ", value_parser = requirement)]
    version: Option<String>,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// An argument with two values.
#[derive(Debug, thiserror::Error)]
#[error("the argument `{0}` is given twice")]
pub(crate) struct GivenTwice(String);

impl Call {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let (timeout, output) = (self.connection.timeout(), self.output);
        let mut client = self.connection.client();
        let with_options = |call| idl::Call {
            master_id: self.master.clone(),
            version: self.version.clone(),
            idempotent: Some(self.idempotent),
            all_values: Some(true),
            ..call
        };
        let Some((service, method)) = self.what else {
            let calls: Vec<_> = in_order::read(std::io::stdin().lock())?.into_iter().map(with_options).collect();
            let names: Vec<String> = calls.iter().map(in_order::name).collect();
            let outcomes = client.call_in_order(calls, timeout)?.outcomes;
            return print_outcomes(names.iter().map(String::as_str).zip(&outcomes), "calls", output);
        };
        let arguments = self.json.map_or_else(|| named(self.arguments), Ok)?;
        let mut call = with_options(idl::Call::of(service, method, arguments.to_string()));
        if self.stream_in {
            client.open_call(call, timeout)?;
            return stream_in::send_lines(&mut client, std::io::stdin().lock(), timeout);
        }
        if self.all {
            let outcomes = client.call_all(call, timeout)?.outcomes;
            let masters = outcomes.iter().map(|outcome| (outcome.master_id.as_deref().unwrap_or("?"), outcome));
            return print_outcomes(masters, "masters", output);
        }
        call.metadata = (!self.metadata.is_empty()).then(|| self.metadata.into_iter().collect());
        if output == Output::Json {
            return Ok(json::print(&document(&client.call(call, timeout)?))?);
        }
        let mut part = client.start_call(call, timeout)?;
        print_values("", &part.values)?;
        while part.completion.is_none() {
            part = client.next_values(timeout)?;
            print_values("", &part.values)?;
        }
        Ok(())
    }
}

fn named(arguments: Vec<(String, Value)>) -> Result<Value, GivenTwice> {
    let mut named = Map::new();
    for (name, value) in arguments {
        if named.contains_key(&name) {
            return Err(GivenTwice(name));
        }
        named.insert(name, value);
    }
    Ok(if named.is_empty() { json!([]) } else { named.into() })
}

/// A service's name may contain dots, a method's may not.
pub(super) fn service_and_method(text: &str) -> Result<(String, String), String> {
    match text.rsplit_once('.') {
        Some((service, method)) if !service.is_empty() && !method.is_empty() => Ok((service.into(), method.into())),
        _ => Err("expected SERVICE.METHOD".into()),
    }
}

/// As JSON if it is valid JSON, otherwise as a string.
fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

fn key_and_value(text: &str) -> Result<(String, Value), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), self::value(value))),
        _ => Err("expected KEY=VALUE; by position with --json '[…]'".into()),
    }
}

/// Checked here, so that the error names the option.
fn requirement(text: &str) -> Result<String, String> {
    text.parse::<Requirement>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn list_or_object(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(value @ (Value::Array(_) | Value::Object(_))) => Ok(value),
        Ok(_) => Err("expected a list or an object".into()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn parse(line: &[&str]) -> Result<Call, clap::Error> {
        match Cli::try_parse_from([&["roster", "call"], line].concat())?.command {
            Command::Call(call) => Ok(call),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_value_is_json_where_it_can_be_and_a_text_where_it_must() {
        let line = ["app.mail.send", "to=a@b.c", "n=7", "zip=007", "big=9223372036854775807", "ok=true", "q=\"1\""];
        let call = parse(&[&line[..], &["empty=", "eq=a=b", "list=[1,{}]", "x={"]].concat()).expect("a call");
        assert_eq!(call.what, Some(("app.mail".into(), "send".into())));
        assert_eq!(
            named(call.arguments).expect("arguments").to_string(),
            r#"{"to":"a@b.c","n":7,"zip":"007","big":9223372036854775807,"ok":true,"q":"1","empty":"","eq":"a=b","list":[1,{}],"x":"{"}"#
        );
        assert_eq!(named(vec![]).expect("arguments").to_string(), "[]");
        let twice = parse(&["mail.send", "to=a", "n=1", "to=b"]).expect("a call");
        assert_eq!(named(twice.arguments).expect_err("a mistake").to_string(), "the argument `to` is given twice");
    }

    #[test]
    fn what_cannot_be_called_is_refused() {
        for line in [
            &["mail"][..],
            &["mail."],
            &[".send"],
            &["mail.send", "word"],
            &["mail.send", "=1"],
            &["mail.send", "--json", "7"],
            &["mail.send", "--json", "[1"],
            &["mail.send", "a=1", "--json", "[]"],
            &["mail.send", "--all", "--master", "m"],
            &["mail.send", "--version", "=>1"],
            &["mail.send", "--in-order"],
            &["--in-order", "--all"],
            &[],
        ] {
            assert!(parse(line).is_err(), "{line:?}");
        }
        let call = parse(&["mail.send", "--json", "[1,\"2\"]", "--version", "^1", "--idempotent"]).expect("a call");
        assert_eq!((call.json, call.version.as_deref(), call.idempotent), (Some(json!([1, "2"])), Some("^1"), true));
    }
}
