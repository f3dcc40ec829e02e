//! The methods: one table with the name of each, what it may carry, and what answers it.

use futures::FutureExt;

use super::dispatch::{Exchange, Step};
use super::idl::{
    CallsRequest, NextValuesRequest, RecurringJobsQuery, RegistersRequest, ResolveRequest, StatsRequest, StatusRequest,
    WorkersQuery,
};
use super::request;
use super::wait::Wait;

/// A method of the interface.
#[derive(Debug)]
pub(super) struct Method {
    pub(super) name: &'static str,
    /// The application-defined argument, with which the message may be as long as `max_call` allows.
    pub(super) large: Option<&'static str>,
    /// Reads the request, and writes the reply or returns what it waits for.
    pub(super) answer: Answer,
}

type Answer = fn(&mut Exchange<'_>) -> thrift::Result<Option<Box<Wait>>>;

/// The methods of the service `Roster`, in the order of the interface.
pub(super) static METHODS: [Method; 50] = [
    Method::new("get", |it| it.reply(|api, peer, request| api.get(peer, &request))),
    Method::new("getMany", |it| it.reply(|api, peer, request| api.get_many(peer, &request))),
    Method::new("children", |it| {
        it.reply_or_wait(|api, peer, request| {
            let asked = api.children_of(peer, request)?;
            let reply = api.children(peer, &asked)?;
            Ok(reply.map_or_else(|| Step::Waits(Wait::Children(asked).into()), Step::Done))
        })
    }),
    Method::new("subtree", |it| {
        it.reply_or_wait(|api, peer, request| {
            let asked = api.subtree_of(peer, &request)?;
            let is_searched = peer.identity.grant().searches();
            if is_searched { Ok(Step::Waits(Wait::Subtree(asked).into())) } else { api.subtree(&asked).map(Step::Done) }
        })
    }),
    Method::new("watch", |it| it.wait(|api, peer, request| api.watch(peer, &request).map(Wait::Watch))),
    Method::new("status", |it| it.reply(|api, peer, StatusRequest {}| api.status(peer))),
    Method::new("masters", |it| {
        it.reply_or_wait(|api, peer, query| {
            let reply = api.masters(peer, &query).now_or_never();
            reply.map_or_else(|| Ok(Step::Waits(Wait::Masters(query).into())), |reply| reply.map(Step::Done))
        })
    }),
    Method::new("master", |it| it.reply(|api, peer, request| api.master(peer, &request))),
    Method::new("services", |it| {
        it.reply_or_wait(|api, peer, query| {
            let reply = api.services(peer, &query).now_or_never();
            reply.map_or_else(|| Ok(Step::Waits(Wait::Services(query).into())), |reply| reply.map(Step::Done))
        })
    }),
    Method::new("instances", |it| {
        it.reply_or_wait(|api, peer, query| {
            let reply = api.instances(peer, &query).now_or_never();
            reply.map_or_else(|| Ok(Step::Waits(Wait::Instances(query).into())), |reply| reply.map(Step::Done))
        })
    }),
    Method::new("resolve", |it| {
        it.reply_or_wait(|api, peer, request: ResolveRequest| {
            let reply = api.resolve(peer, request.clone()).now_or_never();
            reply.map_or_else(|| Ok(Step::Waits(Wait::Resolve(request).into())), |reply| reply.map(Step::Done))
        })
    }),
    Method::new("resolveMany", |it| {
        it.reply_or_wait(|api, peer, request| {
            let reply = api.resolve_many(peer, &request).now_or_never();
            reply.map_or_else(|| Ok(Step::Waits(Wait::ResolveMany(request).into())), |reply| reply.map(Step::Done))
        })
    }),
    Method::new("report", |it| it.reply(|api, peer, request| api.report(peer, request))),
    Method::new("drain", |it| it.wait(|api, peer, request| api.to_drain(peer, request).map(Wait::Drain))),
    Method::new("undrain", |it| it.wait(|api, peer, request| api.to_undrain(peer, request).map(Wait::Drain))),
    Method::new("withheld", |it| it.reply(|api, peer, query| api.withheld(peer, &query))),
    Method::new("history", |it| {
        it.reply_or_wait(|api, peer, query| {
            let reply = api.history(peer, &query).now_or_never();
            reply.map_or_else(|| Ok(Step::Waits(Wait::History(query).into())), |reply| reply.map(Step::Done))
        })
    }),
    Method::new("explain", |it| {
        it.reply_or_wait(|api, peer, request| {
            let reply = api.explain(peer, &request).now_or_never();
            reply.map_or_else(|| Ok(Step::Waits(Wait::Explain(request).into())), |reply| reply.map(Step::Done))
        })
    }),
    Method::new("watchMasters", |it| {
        it.wait(|api, peer, request| api.watch_masters(peer, &request).map(Wait::WatchMasters))
    }),
    Method::new("watchMessages", |it| {
        it.wait(|api, peer, request| api.watch_messages(peer, &request).map(Wait::WatchMessages))
    }),
    Method::large("call", "arguments", |it| it.wait(|api, peer, call| api.request(peer, call).map(Wait::Call))),
    Method::large("callAll", "arguments", |it| {
        it.wait(|api, peer, call| api.request_for_all(peer, call).map(Wait::CallAll))
    }),
    Method::large("callMany", "arguments", |it| it.wait(|_, _, CallsRequest { calls }| Ok(Wait::CallMany(calls)))),
    Method::large("callInOrder", "arguments", |it| {
        it.wait(|_, _, CallsRequest { calls }| Ok(Wait::CallInOrder(calls)))
    }),
    Method::large("startCall", "arguments", |it| {
        it.wait(|api, peer, call| api.request(peer, call).map(Wait::StartCall))
    }),
    Method::new("nextValues", |it| it.wait(|_, _, NextValuesRequest {}| Ok(Wait::NextValues))),
    Method::new("openCall", |it| it.wait(|api, peer, call| api.request(peer, call).map(Wait::OpenCall))),
    Method::new("sendValues", |it| it.wait(|_, _, request| Ok(Wait::SendValues(request)))),
    Method::large("broadcast", "message", |it| it.command(|request| Ok(Wait::Broadcast(request::command(&request)?)))),
    Method::new("addRegisters", |it| {
        it.command(|RegistersRequest { registers }| Ok(Wait::Order(request::registers("register", &registers)?)))
    }),
    Method::new("removeRegisters", |it| {
        it.command(|RegistersRequest { registers }| Ok(Wait::Order(request::registers("remove", &registers)?)))
    }),
    Method::new("stats", |it| it.reply(|api, peer, StatsRequest {}| api.stats(peer))),
    Method::new("workers", |it| {
        it.reply_or_wait(|api, peer, query: WorkersQuery| match query.usage {
            Some(true) => Ok(Step::Waits(Wait::WorkersWithUsage(query).into())),
            _ => api.workers(peer, &query).map(Step::Done),
        })
    }),
    Method::new("controlWorkers", |it| {
        it.wait(|api, peer, request| api.control_workers(peer, request).map(Wait::ControlWorkers))
    }),
    Method::new("addWorker", |it| it.wait(|api, peer, request| api.add_worker(peer, request).map(Wait::AddWorker))),
    Method::new("removeWorker", |it| {
        it.wait(|api, peer, request| api.remove_worker(peer, request).map(Wait::RemoveWorker))
    }),
    Method::new("workerOutput", |it| it.reply(|api, peer, query| api.worker_output(peer, &query))),
    Method::new("commandWorkers", |it| {
        it.wait(|api, peer, request| api.command_workers(peer, request).map(Wait::CommandWorkers))
    }),
    Method::new("watchWorkers", |it| {
        it.wait(|api, peer, request| api.watch_workers(peer, &request).map(Wait::WatchWorkers))
    }),
    Method::new("guarded", |it| it.reply(|api, peer, query| api.guarded(peer, &query))),
    Method::new("controlGuard", |it| {
        it.wait(|api, peer, request| api.to_control_guard(peer, request).map(Wait::ControlGuard))
    }),
    Method::large("enqueue", "payload", |it| {
        it.wait(|api, peer, request| api.enqueue(peer, request).map(Wait::Enqueue))
    }),
    Method::new("takeJobs", |it| it.wait(|api, peer, request| api.take_jobs(peer, request).map(Wait::Queue))),
    Method::large("updateJob", "result", |it| it.wait(|api, _, request| api.update_job(request).map(Wait::Queue))),
    Method::new("job", |it| it.wait(|api, _, request| api.find_job(request).map(Wait::Queue))),
    Method::new("cancelJob", |it| it.wait(|api, _, request| api.cancel_job(request).map(Wait::Queue))),
    Method::new("queues", |it| it.wait(|api, peer, request| api.list_queues(peer, request).map(Wait::Queue))),
    Method::new("peekJobs", |it| it.wait(|api, peer, request| api.peek_jobs(peer, request).map(Wait::Queue))),
    Method::new("controlQueue", |it| it.wait(|api, peer, request| api.control_queue(peer, request).map(Wait::Queue))),
    Method::new("recurringJobs", |it| {
        it.wait(|api, peer, RecurringJobsQuery {}| api.list_recurring(peer).map(Wait::Queue))
    }),
];

/// The method of the service `zkDataService`.
static ZK_DATA: Method = Method::new("zkData", |it| it.zk_data());

/// The longest name that any of them may be called by.
pub(super) const LONGEST_NAME: usize = "Roster:removeRegisters".len();

/// The method of a message: `service:method`, or just the method.
pub(super) fn find(name: &[u8]) -> Option<&'static Method> {
    let is_named = |name: &[u8], method: &Method| method.name.as_bytes() == name;
    if is_named(name.strip_prefix(b"zkDataService:").unwrap_or(name), &ZK_DATA) {
        return Some(&ZK_DATA);
    }
    let name = name.strip_prefix(b"Roster:").unwrap_or(name);
    METHODS.iter().find(|method| is_named(name, method))
}

impl Method {
    const fn new(name: &'static str, answer: Answer) -> Self {
        Self { name, large: None, answer }
    }

    const fn large(name: &'static str, argument: &'static str, answer: Answer) -> Self {
        Self { name, large: Some(argument), answer }
    }
}

impl PartialEq for Method {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Method {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_methods_are_those_of_the_interface() {
        let (_, service) = include_str!("../../idl/roster.thrift").split_once("service Roster {").expect("a service");
        let names = service.lines().filter_map(|line| line.split_once("(1: ")?.0.rsplit(' ').next());
        let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
        assert_eq!(names, METHODS.each_ref().map(|method| method.name));
    }

    #[test]
    fn a_method_is_found_by_its_name_and_by_its_service_and_no_other() {
        for method in METHODS.iter().chain([&ZK_DATA]) {
            let service = if *method == ZK_DATA { "zkDataService" } else { "Roster" };
            let whole = format!("{service}:{}", method.name);
            assert!(whole.len() <= LONGEST_NAME);
            for name in [&whole, method.name] {
                assert_eq!(find(name.as_bytes()), Some(method));
            }
        }
        for name in ["", ":", "Roster:", "nothing", "Roster:zkData", "zkDataService:get", "Roster:Roster:get", "Get"] {
            assert_eq!(find(name.as_bytes()), None, "{name}");
        }
    }
}
