//! What Prometheus reads of the edge. Only what is configured is shown.

use super::float;
use crate::actors::edge::machine::State;
use crate::actors::edge::status::EdgeStatus;
use crate::actors::system::System;
use crate::metrics::Page;

pub(super) fn put(page: &mut Page, system: &System) {
    let edges = system.edge_status();
    let edges: Vec<&EdgeStatus> =
        edges.iter().map(AsRef::as_ref).filter(|edge: &&EdgeStatus| edge.configured).collect();
    let each = |of: fn(&EdgeStatus) -> f64| edges.iter().map(move |edge| ([edge.name], of(edge)));
    page.gauges(
        "nebula_edge_up",
        "Whether the last round at what is in front of the nodes was good.",
        ["edge"],
        each(|edge| f64::from(u8::from(edge.up()))),
    );
    let states = edges.iter().flat_map(|edge| {
        let now = edge.state();
        State::ALL.map(|state| ([edge.name, state.as_str()], f64::from(u8::from(state == now))))
    });
    page.gauges("nebula_edge_state", "Where the edge stands.", ["edge", "state"], states);
    page.gauges(
        "nebula_edge_differences",
        "Objects at the edge that are still to be changed.",
        ["edge"],
        each(|edge| float(edge.differences())),
    );
    page.gauges(
        "nebula_edge_blocked",
        "Names at the edge that a person must make way for.",
        ["edge"],
        each(|edge| float(edge.blocked())),
    );
    page.gauges(
        "nebula_edge_lag_seconds",
        "For how long the edge is known to be other than it should be.",
        ["edge"],
        each(|edge| edge.lag().as_secs_f64()),
    );
    let rounds = edges.iter().flat_map(|edge| {
        let failed = edge.failed_rounds_total();
        let good = edge.rounds_total().saturating_sub(failed);
        [([edge.name, "good"], float(good)), ([edge.name, "failed"], float(failed))]
    });
    page.counters(
        "nebula_edge_rounds_total",
        "Rounds of comparing and changing, by how they ended.",
        ["edge", "outcome"],
        rounds,
    );
    page.counters(
        "nebula_edge_changes_total",
        "Objects at the edge that were changed.",
        ["edge"],
        each(|edge| float(edge.changes_total())),
    );
}
