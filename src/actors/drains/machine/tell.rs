//! What is said of drains.

use nebula_core::clock::WallTime;
use nebula_core::text::cut;

use crate::domain::event::{Happening, Line};
use crate::domain::operation::Operation;

/// So many of the replicas that are left are named in one line.
const NAMED_MAX: usize = 3;
/// The longest text that is kept, in bytes: names, reasons, lines.
const TEXT_BYTES_MAX: usize = 600;

/// How far it is: `2 of 3 replicas are left`, `1 of 3 replicas is left`.
pub(super) fn progress(operation: &Operation) -> String {
    match (operation.left, operation.blocked.len()) {
        (0, 0) => "nothing is left on it".to_owned(),
        (0, _) => remains(operation),
        (1, _) => format!("1 of {} is left", replicas(operation.total)),
        (left, _) => format!("{left} of {} are left", replicas(operation.total)),
    }
}

/// What is left, and why.
pub(super) fn remains(operation: &Operation) -> String {
    let what = match (operation.left, operation.blocked.len()) {
        (0, 0) => return "nothing is left".to_owned(),
        (0, _) => "not all deployments say what they have there".to_owned(),
        (1, _) => "1 replica is left".to_owned(),
        (left, _) => format!("{} are left", replicas(left)),
    };
    let named = operation.blocked.iter().take(NAMED_MAX);
    let named: Vec<String> = named.map(|left| format!("{}: {}", left.deployment, left.why)).collect();
    if named.is_empty() { what } else { cut(format!("{what} ({})", named.join("; ")), TEXT_BYTES_MAX) }
}

fn replicas(count: u32) -> String {
    if count == 1 { "1 replica".to_owned() } else { format!("{count} replicas") }
}

/// A line of its node.
pub(super) fn happened(operation: &Operation, kind: &'static str, message: String, now: WallTime) -> Line {
    Line::of_node(Happening { kind, message, replica: None, node: Some(operation.node.clone()) }, now)
}
