//! Attempts: one call sent to one master, and what comes of it.

use std::borrow::Cow;
use std::sync::Arc;

use futures::StreamExt;
use rmpv::Value;
use tokio::time::{Instant, timeout_at};

use super::caller::InFlightCall;
use super::values::NoRoom;
use super::{Bounds, Failure, Request};
use crate::model::{Answer, Answers, Call, Line, Refused, Service};
use crate::resolve::Query;
use crate::share::{Taken, is_heavy};
use crate::store::MasterEntry;
use crate::tunnel::value::memory_size;

/// How much more memory a small value takes decoded than encoded.
const MEMORY_OF_A_BYTE: usize = 16;

/// Calls one master and returns its id. Releases the master once the call is sent: waiting for an answer keeps no
/// connection alive.
pub(super) async fn attempt(
    entry: Arc<MasterEntry>,
    request: &Request,
    bounds: Bounds<'_>,
    call: &mut InFlightCall<'_>,
) -> Result<String, Failure> {
    call.attempts += 1;
    if call.attempts > 1 {
        call.tracker.retried();
    }
    let master = entry.master.id.clone();
    let answers = send(&entry, request, bounds).await?;
    drop(entry);
    match timeout_at(bounds.until, gather(answers, &master, request, bounds)).await {
        Ok(gathered) => gathered.map(|()| master),
        Err(_) if bounds.values.have_come() => Err(Failure::timed_out(master, request, "came to no end")),
        Err(_) => Err(Failure::timed_out(master, request, "gave no answer")),
    }
}

/// Sends the call by the line with the fewest calls under way that accepts it.
async fn send(entry: &Arc<MasterEntry>, request: &Request, bounds: Bounds<'_>) -> Result<Answers, Failure> {
    let id = &entry.master.id;
    let (service, query) = (&request.service, &request.query);
    let cost = query.cost_of_services(&entry.master.services, service);
    let found = if is_heavy(cost) {
        let (searched, service, query) = (entry.clone(), service.clone(), query.clone());
        let search = bounds.memory.work(cost, move || offered(&searched, &service, &query).cloned());
        let in_time = timeout_at(bounds.until, search).await;
        in_time.map_err(|_| Failure::timed_out(id.clone(), request, "was not sent"))?.map(Cow::Owned)
    } else {
        offered(entry, service, query).map(Cow::Borrowed)
    };
    let Some(service) = found else {
        return Err(Failure::unsent(request, unoffered(id, request)));
    };
    if bounds.until <= Instant::now() {
        return Err(Failure::timed_out(id.clone(), request, "was not sent"));
    }
    let (method, arguments) = (request.method.clone(), request.arguments.packed.clone());
    let (service_name, input) = (service.name.clone(), request.input.clone());
    let (until, memory) = (Some(bounds.until.into_std()), bounds.memory.clone());
    let call = Call { service: service_name, method, arguments, until, input, memory };
    let mut lines: Vec<_> = entry.lines_to(&service).cloned().collect();
    if request.input.is_some() {
        lines.retain(|line| line.takes_input());
        if lines.is_empty() {
            let why = "takes no values beside arguments: only a master of PHP at this sidecar's own register does";
            return Err(Failure::unsent(request, format!("master `{id}` {why}")));
        }
    }
    lines.sort_by_cached_key(|line| line.outstanding());
    let sent =
        timeout_at(bounds.until, bounds.memory.work(request.arguments.weight, move || call_by_one(&lines, &call)))
            .await;
    let refused = match sent {
        Ok(Ok(answers)) => return Ok(answers),
        Ok(Err(refused)) => refused,
        Err(_) => return Err(Failure::timed_out(id.clone(), request, "gave no answer")),
    };
    let message = format!("master `{id}`: {refused}");
    Err(match refused {
        Refused::Overloaded | Refused::NoMemory => Failure::Overloaded(message),
        Refused::Gone => Failure::unsent(request, message),
    })
}

/// Uses the first line that accepts the call.
fn call_by_one(lines: &[Arc<dyn Line>], call: &Call) -> Result<Answers, Refused> {
    let mut refused = Refused::Gone;
    for line in lines {
        match line.call(call.clone()) {
            Ok(answers) => return Ok(answers),
            Err(why) => refused = why,
        }
    }
    Err(refused)
}

/// Whether the master accepts values besides arguments.
pub(super) fn takes_input(entry: &MasterEntry, service: &str, query: &Query) -> bool {
    let takes = |service| entry.lines_to(service).any(|line| line.takes_input());
    offered(entry, service, query).is_some_and(takes)
}

/// The newest version of the service that the master offers and that fits.
fn offered<'a>(entry: &'a MasterEntry, service: &str, query: &Query) -> Option<&'a Service> {
    let fits = |of: &Service| query.version.as_ref().is_none_or(|version| version.matches(&of.version()));
    let offers = entry.master.services.iter().filter(|it| it.base_name() == service);
    let offers = offers.filter(|it| it.metadata.has(&query.metadata));
    offers.filter(|it| fits(it)).max_by_key(|it| it.version())
}

/// Waits for all values of the master. Each is charged at its size in memory while decoded, which may be many times its
/// encoded size.
async fn gather(mut answers: Answers, master: &str, request: &Request, bounds: Bounds<'_>) -> Result<(), Failure> {
    let failed = |message, class, code| Failure::Failed { master: master.to_owned(), message, class, code };
    let lost = |message| Failure::Lost { master: master.to_owned(), message };
    let given_up = |why: String| failed(format!("the call was given up: {why}"), None, 0);
    let put = async |value: Value, mut held: Taken| {
        let encoding = request.encoding;
        let write = move || encoding.write(&value);
        let written = bounds.memory.work(held.amount() / MEMORY_OF_A_BYTE, write).await.map_err(given_up)?;
        held.resize(0);
        bounds.values.put(written).await.map_err(|why| given_up(why.to_string()))
    };
    let (mut last, mut held) = (Value::Nil, bounds.memory.nothing());
    loop {
        let value = match answers.next().await {
            Some(Answer::Value(value)) => value,
            Some(Answer::Packed(packed)) => packed.read(bounds.memory).await.map_err(|why| failed(why, None, 0))?,
            Some(Answer::End) if last.is_nil() => return Ok(()),
            Some(Answer::End) => return put(last, held).await,
            Some(Answer::Failed { message, class, code }) => return Err(failed(message, class, code)),
            Some(Answer::Lost(message)) => return Err(lost(message)),
            Some(Answer::Refused(message)) => {
                return Err(Failure::Overloaded(format!("master `{master}`: {message}")));
            }
            Some(Answer::Unsent(message)) => {
                return Err(Failure::unsent(request, format!("master `{master}`: {message}")));
            }
            None => return Err(lost("the way to the master was closed".into())),
        };
        (last, held) = (Value::Nil, bounds.memory.nothing());
        if !held.resize(memory_size(&value)) {
            return Err(given_up(NoRoom::Memory.to_string()));
        }
        if request.all_values {
            put(value, std::mem::replace(&mut held, bounds.memory.nothing())).await?;
        } else {
            last = value;
        }
    }
}

/// Gives the same message for an absent master as for one that does not offer the service: a client that may call may
/// not always know which exist.
pub(super) fn unoffered(id: &str, request: &Request) -> String {
    format!("there is no master `{id}` that offers the service `{}`", request.service)
}
