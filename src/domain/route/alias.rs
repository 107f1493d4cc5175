//! Aliases: public names that stand for several deployments, each with its weight, and for one more where these fail.

use std::sync::Arc;

use nebula_core::clock::WallTime;
use nebula_core::ids::DeploymentId;

use super::{Route, RouteTable};

/// An alias as the gateway sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasRoute {
    /// The public model name.
    pub name: String,
    /// When it was made.
    pub created_at: WallTime,
    /// The deployments behind it that exist, and how much of the traffic each gets. One of weight 0 gets none.
    pub targets: Vec<(DeploymentId, u32)>,
    /// Who is asked when none of them can serve, or the one that was asked has failed.
    pub fallback: Option<DeploymentId>,
}

/// What an alias comes to for one request.
#[derive(Debug)]
pub struct Chosen<'a> {
    /// Who is asked.
    pub route: &'a Arc<Route>,
    /// Whose turn it would have been, if it sleeps and another one answers meanwhile: it is to be woken.
    pub sleeper: Option<&'a Arc<Route>>,
    /// Who is asked if that fails.
    pub fallback: Option<&'a Arc<Route>>,
}

impl AliasRoute {
    /// Who gets a request, by chance and by weight among the targets that the caller may use (`usable`) and that can
    /// serve. Nobody is kept waiting for a target that is on its way while another one, or the fallback, answers. None:
    /// the caller may use nothing of it. When nothing can serve, the answer is one that cannot.
    pub fn choose<'a>(
        &self,
        table: &'a RouteTable,
        random: u32,
        usable: impl Fn(&Route) -> bool,
    ) -> Option<Chosen<'a>> {
        let usable = |id| table.by_id(id).filter(|route| usable(route));
        let weighty = || self.targets.iter().filter(|(_, weight)| *weight > 0);
        let targets = || weighty().filter_map(|(id, weight)| Some((usable(*id)?, *weight)));
        let fallback = self.fallback.and_then(usable);
        let answers = |route: &Route| !route.endpoints.is_empty();
        let turn = drawn(targets().filter(|(route, _)| answers(route) || route.is_awaited()), random);
        let route = match turn {
            Some(route) if answers(route) => Some(route),
            _ => drawn(targets().filter(|(route, _)| answers(route)), random)
                .or_else(|| fallback.filter(|route| answers(route)))
                .or(turn)
                .or_else(|| fallback.filter(|route| route.is_awaited()))
                .or_else(|| targets().map(|(route, _)| route).next())
                .or(fallback),
        }?;
        let another = |other: &&Arc<Route>| other.deployment_id != route.deployment_id;
        Some(Chosen {
            route,
            sleeper: turn.filter(another).filter(|route| route.wakes),
            fallback: fallback.filter(another),
        })
    }
}

/// One of these by weight; none if all weigh nothing. `random` is any number.
fn drawn<'a>(
    routes: impl Iterator<Item = (&'a Arc<Route>, u32)> + Clone,
    random: u32,
) -> Option<&'a Arc<Route>> {
    let total: u64 = routes.clone().map(|(_, weight)| u64::from(weight)).sum();
    // The product's upper half: an even share of the numbers below `total`.
    let mut point = (u64::from(random).wrapping_mul(total)) >> 32;
    for (route, weight) in routes {
        match point.checked_sub(u64::from(weight)) {
            Some(rest) => point = rest,
            None => return Some(route),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use nebula_core::ids::ReplicaId;

    use super::super::Access;
    use super::super::fixtures::{endpoint, route};
    use super::*;

    /// What becomes of a target.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum State {
        Answers,
        Coming,
        Sleeps,
        Down,
    }
    use State::{Answers, Coming, Down, Sleeps};

    fn target(n: u8, state: State, access: Access) -> Route {
        let endpoints = match state {
            Answers => vec![endpoint(ReplicaId::random(), 1)],
            Coming | Sleeps | Down => Vec::new(),
        };
        Route {
            deployment_id: DeploymentId::from_bytes([n; 16]),
            coming: state == Coming,
            wakes: state == Sleeps,
            ..route(&format!("d{n}"), access, endpoints)
        }
    }

    fn alias(weights: &[u32], fallback: bool) -> AliasRoute {
        let id = |n: u8| DeploymentId::from_bytes([n; 16]);
        AliasRoute {
            name: "alias".to_owned(),
            created_at: WallTime(1),
            targets: (1..).map(id).zip(weights.iter().copied()).collect(),
            fallback: fallback.then(|| id(9)),
        }
    }

    fn table(states: &[State], fallback: Option<State>) -> RouteTable {
        let targets = states.iter().zip(1..).map(|(state, n)| target(n, *state, Access::Public));
        RouteTable::new(targets.chain(fallback.map(|state| target(9, state, Access::Public))).collect())
    }

    #[test]
    fn the_share_of_each_is_its_weight_exactly() {
        let (alias, table) = (alias(&[90, 0, 10], false), table(&[Answers; 3], None));
        const STEPS: u32 = 100_000;
        let mut counts = [0_u32; 3];
        for step in 0..STEPS {
            let random = step * (u32::MAX / STEPS);
            let chosen = alias.choose(&table, random, |_| true).expect("one").route;
            counts[usize::from(chosen.deployment_id.as_bytes()[0]) - 1] += 1;
        }
        assert!(
            counts[0].abs_diff(90_000) <= 2 && counts[1] == 0 && counts[2].abs_diff(10_000) <= 2,
            "{counts:?}"
        );
        assert!(alias.choose(&table, u32::MAX, |_| true).is_some(), "the last number too");
    }

    #[test]
    fn who_can_serve_is_asked_and_who_sleeps_is_woken_meanwhile() {
        // The first target's turn it is, then who answers for it, who is woken, and who is asked after that.
        for (states, fallback, route, sleeper, after) in [
            (&[Answers, Answers][..], Some(Answers), 1, None, Some(9)),
            (&[Down, Answers], Some(Answers), 2, None, Some(9)),
            (&[Coming, Answers], Some(Answers), 2, None, Some(9)),
            (&[Sleeps, Answers], None, 2, Some(1), None),
            (&[Sleeps, Down], Some(Answers), 9, Some(1), None),
            (&[Coming, Down], Some(Answers), 9, None, None),
            (&[Coming, Down], Some(Down), 1, None, Some(9)),
            (&[Sleeps, Down], Some(Sleeps), 1, None, Some(9)),
            (&[Down, Down], Some(Sleeps), 9, None, None),
            (&[Down, Down], Some(Down), 1, None, Some(9)),
            (&[Down, Down], None, 1, None, None),
        ] {
            let weights = vec![50; states.len()];
            let (alias, table) = (alias(&weights, fallback.is_some()), table(states, fallback));
            let chosen = alias.choose(&table, 0, |_| true).expect("one");
            let number = |route: &Arc<Route>| route.deployment_id.as_bytes()[0];
            let found = (number(chosen.route), chosen.sleeper.map(number), chosen.fallback.map(number));
            assert_eq!(found, (route, sleeper, after), "{states:?} {fallback:?}");
        }
    }

    #[test]
    fn only_what_the_caller_may_use_is_chosen() {
        let (alias, table) = (alias(&[50, 50], true), table(&[Answers; 2], Some(Answers)));
        let second = DeploymentId::from_bytes([2; 16]);
        for random in [0, u32::MAX / 2, u32::MAX] {
            let chosen = alias.choose(&table, random, |route| route.deployment_id == second).expect("one");
            assert_eq!((chosen.route.deployment_id, chosen.fallback.is_some()), (second, false));
        }
        assert!(alias.choose(&table, 0, |_| false).is_none());
        let gone = RouteTable::default();
        assert!(alias.choose(&gone, 0, |_| true).is_none(), "no deployment behind it exists");
    }
}
