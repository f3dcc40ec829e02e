//! Drives the real binary, with a real ZooKeeper and real PHP, in temporary directories.

mod access;
mod admin;
mod attacks;
mod bounds;
mod burden;
mod chaos;
mod claims;
mod cli;
mod containers;
mod death;
mod descriptors;
mod documentation;
mod endpoint;
mod ensembles;
mod export;
mod faults;
mod file;
mod full;
mod generated;
mod harm;
#[allow(dead_code, unused_imports, reason = "`make endurance` and `make bench` use the rest")]
mod harness;
mod hostile;
mod inputs;
mod joining;
mod masters;
mod messages;
mod mirror;
mod newcomer;
mod owners;
mod php;
mod planted;
mod ports;
mod readers;
mod recorded;
mod register;
mod releases;
mod restarts;
mod secured;
mod shared;
mod storm;
mod streams;
mod suspend;
mod tls;

use roster::thrift::idl;
