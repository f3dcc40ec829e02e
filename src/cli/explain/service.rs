//! `roster explain SERVICE`: why each of its instances is served or not.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use roster::history::Event;
use roster::model::{counted, view};
use roster::thrift::client::{Client, Error, age};
use roster::thrift::idl::{
    EntityKind, ExplainReply, ExplainRequest, ExplainedInstance, ExplainedNode, HistoryQuery, NotFound,
};
use serde_json::{Value, json};

use crate::cli::connection::{Connection, duration};
use crate::cli::{Output, history, json, resolve, text};

/// How many entries are told of a service without instances.
const LAST_ENTRIES: usize = 5;

#[derive(Debug, Args)]
pub(super) struct ExplainService {
    /// The name of a service, without a version [default: list all nodes that are to register instances, and cannot be
    /// read]
    service: Option<String>,
    /// Only this one: `host:port`, or the id of a master
    instance: Option<String>,
    /// Refuse data that has not been confirmed in sync for longer than this; a bare number is in seconds
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    max_age: Option<Duration>,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

impl ExplainService {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut client = self.connection.client();
        let request = ExplainRequest {
            service_name: self.service.clone(),
            instance: self.instance.clone(),
            max_age_ms: self.max_age.map(age),
            limit: None,
            cursor: None,
        };
        let reply = read(&mut client, request)?;
        let Some(service) = self.service else { return list(&reply, self.output) };
        match (self.output, &self.instance) {
            (Output::Json, _) => json::print(&document(&reply))?,
            // What else there is of the service would hide that the instance is none of it.
            (Output::Table, Some(_)) if reply.instances.is_empty() => {}
            (Output::Table, _) => io::stdout().write_all(shown(&reply).as_bytes())?,
        }
        match self.instance {
            Some(instance) if reply.instances.is_empty() => Err(absence(&mut client, service, instance, reply)?.into()),
            None if reply.instances.is_empty() && self.output == Output::Table => {
                tell_of_past(&mut client, service, !reply.undecodable.is_empty())
            }
            _ => Ok(()),
        }
    }
}

/// Prints all nodes that cannot be read.
fn list(reply: &ExplainReply, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return Ok(json::print(&document(reply))?);
    }
    if reply.undecodable.is_empty() && reply.more_undecodable == 0 {
        eprintln!("roster: all nodes that are to register instances can be read");
    }
    Ok(io::stdout().write_all(shown(reply).as_bytes())?)
}

/// Prints that a service has no instances, and its last entries in the history.
fn tell_of_past(client: &mut Client, service: String, has_nodes: bool) -> anyhow::Result<()> {
    let mut out = io::stdout();
    let name = text::line(&service);
    let (entries, ..) =
        history::read(client, &HistoryQuery { service_name: Some(service), ..HistoryQuery::default() })?;
    let had_some =
        !has_nodes || entries.iter().any(|entry| !matches!(entry.event, Event::Undecodable | Event::Omitted));
    writeln!(out, "the service {name} has no instances{}", if had_some { " any more" } else { "" })?;
    for entry in &entries[entries.len().saturating_sub(LAST_ENTRIES)..] {
        writeln!(out, "    {}", history::line(entry))?;
    }
    Ok(())
}

/// All pages, as fresh as the first.
fn read(client: &mut Client, request: ExplainRequest) -> Result<ExplainReply, Error> {
    let mut whole = client.explain(request.clone())?;
    while let Some(cursor) = whole.cursor.take() {
        let page = client.explain(ExplainRequest { cursor: Some(cursor), ..request.clone() })?;
        whole.instances.extend(page.instances);
        whole.undecodable.extend(page.undecodable);
        whole.more_undecodable += page.more_undecodable;
        whole.cursor = page.cursor;
    }
    Ok(whole)
}

/// The error that a service has no such instance, and never had it, as far as is known. None: it has, or had.
pub(crate) fn never_had(client: &mut Client, service: &str, instance: &str) -> anyhow::Result<Option<Error>> {
    let (service, instance) = (service.to_owned(), instance.to_owned());
    let query = HistoryQuery {
        service_name: Some(service.clone()),
        instance: Some(instance.clone()),
        ..HistoryQuery::default()
    };
    let (entries, ..) = history::read(client, &query)?;
    if entries.iter().any(|entry| entry.instance == instance) {
        return Ok(None);
    }
    let reply = read(client, ExplainRequest::new(service.clone(), instance.clone(), None, None, None))?;
    match reply.instances.is_empty() {
        true => absence(client, service, instance, reply).map(Some),
        false => Ok(None),
    }
}

/// The error that there is no such instance, with what was last known of it.
fn absence(client: &mut Client, service: String, instance: String, reply: ExplainReply) -> anyhow::Result<Error> {
    let query = HistoryQuery { service_name: Some(service.clone()), ..HistoryQuery::default() };
    let (entries, ..) = history::read(client, &query)?;
    let all = read(client, ExplainRequest::new(service.clone(), None, None, None, None))?;
    let listed = all.instances.iter().map(|it| resolve::shown(&it.instance));
    let known: BTreeSet<String> = listed.chain(entries.iter().map(|entry| entry.instance.clone())).collect();
    let of_host = |it: &&String| it.rsplit_once(':').is_some_and(|(host, _)| host == instance);
    let at_host: Vec<_> = known.iter().filter(of_host).map(|it| text::line(it)).collect();
    let last = match entries.iter().rfind(|entry| entry.instance == instance) {
        Some(last) => format!("; the last that is known of it: {}", history::line(last)),
        None if !at_host.is_empty() => format!("; of this host there are, or were: {}", at_host.join(", ")),
        None => "; nor does `roster history` know of one".into(),
    };
    let unread = match reply.undecodable.len() as u64 + u64::from(reply.more_undecodable.unsigned_abs()) {
        0 => String::new(),
        count => format!(
            "; of the service, {} cannot be read: `roster explain {service}` tells which",
            counted(count, "node")
        ),
    };
    let message = format!("the service `{service}` has no instance {instance}{last}{unread}");
    Ok(Error::NotFound(NotFound::new(EntityKind::SERVICE, service, message, reply.freshness)))
}

fn document(reply: &ExplainReply) -> Value {
    let instance = |it: &ExplainedInstance| {
        json!({
            "instance": view::Instance::from(it.instance.clone()),
            "served": it.served,
            "reasons": it.reasons,
            "nodes": it.nodes.iter().map(node).collect::<Vec<_>>(),
            "moreNodes": it.more_nodes.unwrap_or(0),
        })
    };
    json!({
        "instances": reply.instances.iter().map(instance).collect::<Vec<_>>(),
        "undecodable": reply.undecodable.iter().map(node).collect::<Vec<_>>(),
        "moreUndecodable": reply.more_undecodable,
        "sources": reply.sources,
        "freshness": json::freshness(&reply.freshness),
    })
}

fn node(node: &ExplainedNode) -> Value {
    json!({
        "source": node.source,
        "decoder": node.decoder,
        "path": node.path,
        "stat": node.stat.clone().map(roster::model::Stat::from),
        "rules": node.rules.as_deref().unwrap_or_default(),
        "error": node.error,
    })
}

fn shown(reply: &ExplainReply) -> String {
    let mut told = String::new();
    for source in &reply.sources {
        add(&mut told, &text::line(source));
    }
    for ExplainedInstance { instance, served, reasons, nodes, more_nodes } in &reply.instances {
        let is = if *served { "served" } else { "not served" };
        let version = if instance.version == "0.0.0" { "" } else { &instance.version };
        let of =
            if instance.group.is_empty() { String::new() } else { format!(" (group {})", text::line(&instance.group)) };
        let master = instance.master_id.as_ref().map_or("", |_| "master ");
        let words = [&*resolve::shown(instance), version].join(" ");
        add(&mut told, &format!("{master}{}{of}: {is}", words.trim_end()));
        reasons.iter().for_each(|reason| add(&mut told, &format!("    {}", text::line(reason))));
        for it in &instance.provenance {
            let Some(id) = &it.master_id else { continue };
            let (id, source) = (text::line(id), text::line(&it.source));
            add(&mut told, &format!("    master {id}, by {source}"));
        }
        for (number, node) in nodes.iter().enumerate() {
            let rank = if number == 0 { "" } else { "also " };
            add(&mut told, &format!("    {rank}{}", place(node)));
            let rules = node.rules.iter().flatten();
            rules.for_each(|rule| add(&mut told, &format!("        changed by {}", text::line(rule))));
        }
        if let Some(more) = more_nodes {
            add(&mut told, &format!("    and {more} more nodes"));
        }
    }
    for node in &reply.undecodable {
        let why = text::line(node.error.as_deref().unwrap_or_default());
        add(&mut told, &format!("{}: cannot be read: {why}", place(node)));
    }
    if reply.more_undecodable > 0 {
        add(&mut told, &format!("{} more nodes that cannot be read", reply.more_undecodable));
    }
    told
}

/// A node with its source, decoder, session and age.
fn place(node: &ExplainedNode) -> String {
    let path = match (&node.path, &node.stat) {
        (Some(path), _) => text::line(path),
        (None, Some(_)) => "a node whose path is too long to be shown".into(),
        (None, None) => "a node that you may not read".into(),
    };
    let of = format!("{path} ({}, {})", text::line(&node.source), text::line(&node.decoder));
    match &node.stat {
        Some(stat) if stat.ephemeral_owner != 0 => {
            format!("{of}, of session {:#x} since {}", stat.ephemeral_owner, text::time(stat.ctime))
        }
        Some(stat) => format!("{of}, of no session, since {}", text::time(stat.ctime)),
        None => of,
    }
}

fn add(told: &mut String, line: &str) {
    writeln!(told, "{line}").expect("a string takes all");
}
