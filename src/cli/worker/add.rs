//! `roster worker add` and `remove`.

use std::io::{self, Write};
use std::path::{Path, absolute};

use clap::Args;
use roster::thrift::client::Error;
use serde_json::{Map, Value, json};

use super::control::{Patience, Unfinished, fail_to_run, print};
use super::{Misused, group_name};
use crate::cli::text;

/// Add a worker, and wait until its processes are ready
///
/// It lasts until the sidecar ends; with --save, also after that. No configuration file is written. Only root and the
/// sidecar's own user may do this.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  roster worker add mail --set count=2 --set stop_timeout=1m -- php /srv/app/mail.php
  roster worker add web --save --set 'listen=[\"tcp://127.0.0.1:8080\"]' --set directory=/srv/app -- php server.php
  roster worker add queue --set params.queue=low --set environment.APP_ENV=prod -- php /srv/app/worker.php")]
pub(super) struct Add {
    /// The name of the worker
    #[arg(value_name = "NAME")]
    name: String,
    /// A setting as in a `[[worker]]` of the configuration; dots lead into tables. May be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
    set: Vec<(String, Value)>,
    /// Keep it when the sidecar restarts, until it is removed
    #[arg(long)]
    save: bool,
    /// The program and its arguments, after `--`; no shell interprets them
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
    #[command(flatten)]
    patience: Patience,
}

/// Remove a worker, and wait until its processes have ended
///
/// Its sockets are closed, and its processes are asked to end as in a rolling restart; what was saved of it is
/// forgotten. A worker in the configuration is back when the sidecar restarts. Only root and the sidecar's own user may
/// do this.
#[derive(Debug, Args)]
pub(super) struct Remove {
    #[arg(value_name = "NAME", value_parser = group_name)]
    group: String,
    /// Only forget what was saved of it; processes that run go on until the sidecar ends
    #[arg(long)]
    saved: bool,
    #[command(flatten)]
    patience: Patience,
}

impl Add {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { name, set, save, command, patience: Patience { wait, connection } } = self;
        let starts_elsewhere = set.iter().all(|(key, _)| key != "directory")
            && command.iter().skip(1).any(|word| !word.starts_with('/') && Path::new(word).is_file());
        let settings = settings(&name, command, set).map_err(Misused)?;
        let mut client = connection.client();
        let reply = client.add_worker(settings.to_string(), save, wait)?;
        let failed = print(&reply, wait, |_| "runs".to_owned())?;
        let mut is_there =
            format!("{name} is there, and not all of it runs; `roster worker remove {name}` takes it away");
        if starts_elsewhere {
            is_there += "; it starts in `/`: write whole paths, or --set directory=.";
        }
        fail_to_run(&mut client, &failed, &is_there)?;
        let until = if save { "also when" } else { "until" };
        Ok(writeln!(io::stdout(), "{name} is added, {until} the sidecar is started again")?)
    }
}

impl Remove {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { group, saved, patience: Patience { wait, connection } } = self;
        let reply = match connection.client().remove_worker(group.clone(), saved, wait) {
            Err(Error::Invalid(why)) if saved && why.field == "savedOnly" => {
                return Err(Misused(format!("--saved: {}", why.message)).into());
            }
            reply => reply?,
        };
        let failed = print(&reply, wait, |_| "is no more".to_owned())?;
        if let Some(first) = failed.first() {
            let message = format!("{first} has not ended; `roster worker list` tells of it until it has");
            return Err(Unfinished::Failed(message).into());
        }
        if let Some(why) = reply.not_saved {
            let why = text::line(&why);
            let message = format!("{group} is removed, but is there again when the sidecar is started again: {why}");
            return Err(Unfinished::Failed(message).into());
        }
        let told = match (saved, reply.is_configured) {
            (true, _) => "is saved no more; what runs goes on until the sidecar is started again",
            (false, Some(true)) => "is removed until the sidecar is started again: its configuration has it",
            (false, _) => "is removed",
        };
        Ok(writeln!(io::stdout(), "{group} {told}")?)
    }
}

/// The settings as an object.
fn settings(name: &str, command: Vec<String>, set: Vec<(String, Value)>) -> Result<Value, String> {
    let mut settings = json!({ "name": name, "command": command });
    for (key, value) in set {
        let mut at = &mut settings;
        for part in key.split('.') {
            let there = at.as_object_mut().ok_or_else(|| format!("--set {key}: it leads into what is no table"))?;
            at = there.entry(part).or_insert_with(|| Value::Object(Map::new()));
        }
        *at = value;
    }
    // Relative paths start from where the command was given.
    for key in ["directory", "log"] {
        if let Some(Value::String(path)) = settings.get_mut(key)
            && let Ok(whole) = absolute(&*path)
        {
            *path = whole.display().to_string();
        }
    }
    Ok(settings)
}

/// A TOML value; anything else is a string.
fn setting(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, such as count=4")?;
    if ["name", "command"].contains(&key) {
        return Err(format!("`{key}` has a place of its own: roster worker add NAME -- COMMAND"));
    }
    let read = format!("value = {value}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("value"));
    let value = match read {
        // So it is written in other places, such as ROSTER_PARAMS.
        None if value.starts_with('{') && serde_json::from_str::<Value>(value).is_ok_and(|it| it.is_object()) => {
            serde_json::from_str(value).map_err(|error| error.to_string())?
        }
        None if value.starts_with(['[', '{']) => {
            return Err(format!(
                "`{value}` is no list or table of TOML; texts take quotes in it: [\"a\"], {{ a = \"b\" }}"
            ));
        }
        None | Some(toml::Value::Datetime(_)) => Value::String(value.to_owned()),
        Some(value) => serde_json::to_value(value).map_err(|error| error.to_string())?,
    };
    Ok((key.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_values_of_toml_or_texts_and_lead_into_tables() {
        let set = |all: &[&str]| {
            let set = all.iter().map(|it| setting(it).expect("a setting")).collect();
            settings("mail", vec!["php".into(), "mail.php".into()], set)
        };
        let read = set(&["count=2", "stop_timeout=1m", "listen=[\"tcp://:80\"]", "params.a.b=true", "params.a.c=x=y"]);
        let whole = json!({
            "name": "mail", "command": ["php", "mail.php"], "count": 2, "stop_timeout": "1m",
            "listen": ["tcp://:80"], "params": { "a": { "b": true, "c": "x=y" } },
        });
        assert_eq!(read, Ok(whole));
        let whole = set(&["directory=srv"]).expect("settings");
        assert!(whole["directory"].as_str().is_some_and(|it| it.starts_with('/') && it.ends_with("/srv")), "{whole}");
        assert_eq!(set(&["count=2", "count.x=1"]), Err("--set count.x: it leads into what is no table".to_owned()));
        let read = set(&["params={\"from\":\"x@y\"}"]).expect("settings");
        assert_eq!(read["params"], json!({ "from": "x@y" }), "as JSON");
        for wrong in ["count", "name=x", "command=php", "listen=[tcp://127.0.0.1:80]", "params={a}"] {
            setting(wrong).expect_err(wrong);
        }
    }
}
