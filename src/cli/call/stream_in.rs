//! Standard input, sent line by line to a method while it runs.

use std::io::BufRead;
use std::time::Duration;

use roster::thrift::client::Client;
use roster::thrift::idl::CallValues;

use super::{print_values, value};

/// Sends all lines to the open call and prints what it returns, until both have ended.
pub(super) fn send_lines(client: &mut Client, input: impl BufRead, timeout: Duration) -> anyhow::Result<()> {
    for line in input.lines() {
        let line = value(&line?).to_string().into_bytes();
        loop {
            let sent = client.send_values(vec![line.clone()], false, timeout)?;
            if has_ended(&sent.values)? {
                return Ok(());
            }
            if sent.accepted > 0 {
                break;
            }
        }
    }
    let mut part = client.send_values(Vec::new(), true, timeout)?.values;
    while !has_ended(&part)? {
        part = client.next_values(timeout)?;
    }
    Ok(())
}

/// Prints the values that have arrived.
fn has_ended(part: &CallValues) -> anyhow::Result<bool> {
    print_values("", &part.values)?;
    Ok(part.completion.is_some())
}
