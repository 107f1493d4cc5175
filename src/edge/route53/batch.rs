//! How much goes into one change set: Route 53 takes 1,000 records and 32,000 characters of values, and counts
//! an UPSERT twice.

use super::records::{Action, Group};

/// The most records in a change set.
pub(super) const RECORDS_MAX: usize = 1_000;
/// The most characters in all values of a change set.
pub(super) const CHARS_MAX: usize = 32_000;

/// How many of the groups, from the first one on, fit into one change set.
pub(super) fn fitting(groups: &[Group]) -> usize {
    let (mut records, mut chars) = (0, 0);
    let fits = |group: &&Group| {
        for op in &group.ops {
            let times = if op.action == Action::Upsert { 2 } else { 1 };
            records += times * op.values.len();
            chars += times * op.values.iter().map(|value| value.chars().count()).sum::<usize>();
        }
        records <= RECORDS_MAX && chars <= CHARS_MAX
    };
    groups.iter().take_while(fits).count()
}

#[cfg(test)]
mod tests {
    use super::super::records::{Op, OpKind};
    use super::*;

    fn groups(count: usize, action: Action, values: &[String]) -> Vec<Group> {
        let group = |number| Group {
            host: format!("h{number}"),
            ops: vec![Op {
                action,
                kind: OpKind::A,
                name: format!("h{number}"),
                ttl: 300,
                values: values.to_vec(),
            }],
        };
        (0..count).map(group).collect()
    }

    #[test]
    fn change_sets_are_as_large_as_they_may_be() {
        let short = ["10.0.0.1".to_owned()];
        let long = ["x".repeat(100)];
        for (count, action, values, fit) in [
            (0, Action::Create, &short, 0),
            (999, Action::Create, &short, 999),
            (2_000, Action::Create, &short, 1_000),
            (2_000, Action::Delete, &short, 1_000),
            (2_000, Action::Upsert, &short, 500),
            (2_000, Action::Create, &long, 320),
            (2_000, Action::Upsert, &long, 160),
        ] {
            assert_eq!(fitting(&groups(count, action, values)), fit, "{count} {action:?}");
        }
        assert_eq!(fitting(&groups(5, Action::Delete, &vec!["10.0.0.1".to_owned(); 400])), 2);
    }
}
