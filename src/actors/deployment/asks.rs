//! What a deployment asks of others, and what it looks at again and again.

use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use nebula_core::ids::{Generation, NodeId, ReplicaId};

use super::autoscale::LOOK_EVERY;
use super::machine::Event;
use super::{DeploymentActor, hint};
use crate::actors::scheduler::{self, MayMove, Place, Placed};

/// How long a place may be waited for while thousands ask for theirs.
const PLACE_TIMEOUT: Duration = Duration::from_secs(60);
/// When a hint that nobody could give is asked for again.
const HINT_AGAIN: Duration = Duration::from_secs(600);

impl DeploymentActor {
    pub(super) fn seek_place(&mut self, id: ReplicaId, generation: Generation, ctx: &mut Context<Self>) {
        let request = scheduler::request(self.machine.deployment(), id);
        let handle = self.system.scheduler.clone();
        let answer = async move { handle.ask_in_turn(scheduler::PATH, Place(request), PLACE_TIMEOUT).await };
        ctx.spawn(answer.into_actor(self).map(move |answer, actor: &mut Self, ctx| {
            let _turn = actor.cell.future_turn("future: a place");
            let event = match answer {
                Ok(Placed::On(placement)) => Event::Placed(id, generation, placement),
                Ok(Placed::Nowhere(why)) => Event::Unplaceable(id, generation, why),
                Err(error) => Event::Unplaceable(id, generation, error.message),
            };
            actor.drive(event, ctx);
        }));
    }

    /// Asks whether what is on a lost node may be replaced. Without an answer it is asked again.
    pub(super) fn ask_move(&mut self, node: NodeId, ctx: &mut Context<Self>) {
        let (handle, asked) = (self.system.scheduler.clone(), node.clone());
        let answer = async move { handle.ask(scheduler::PATH, MayMove(asked)).await };
        ctx.spawn(answer.into_actor(self).map(move |answer, actor: &mut Self, ctx| {
            let _turn = actor.cell.future_turn("future: whether to move");
            if let Ok(granted) = answer {
                actor.drive(Event::MayMove(node, granted), ctx);
            }
        }));
    }

    /// Looks at the load again and again, as long as it decides about the number of replicas.
    pub(super) fn look_at_load(&mut self, ctx: &mut Context<Self>) {
        if self.looking || !self.machine.wants_load() {
            return;
        }
        self.looking = true;
        ctx.run_later(LOOK_EVERY, |actor, ctx| {
            let _turn = actor.cell.timer_turn("timer: the load");
            actor.looking = false;
            let load = actor.system.load_of(actor.id);
            actor.drive(Event::Load(load), ctx);
        });
    }

    /// Finds out once how much memory the model is thought to need, if nobody has said it.
    pub(super) fn ask_hint(&mut self, ctx: &mut Context<Self>) {
        let spec = &self.machine.deployment().spec;
        let about = (spec.model.clone(), spec.source.clone());
        if !self.machine.wants_hint() || self.hinted.as_ref() == Some(&about) {
            return;
        }
        self.hinted = Some(about.clone());
        let (system, dep) = (self.system.clone(), self.machine.deployment().clone());
        let answer = async move { hint::ask(&system, &dep).await };
        ctx.spawn(answer.into_actor(self).map(move |answer, actor: &mut Self, ctx| {
            let _turn = actor.cell.future_turn("future: a hint");
            match answer {
                // It may be another model by now.
                _ if actor.hinted.as_ref() != Some(&about) => {}
                Some(hint) => actor.drive(Event::Hint(hint), ctx),
                None => {
                    ctx.run_later(HINT_AGAIN, |actor, ctx| {
                        let _turn = actor.cell.timer_turn("timer: a hint");
                        actor.hinted = None;
                        actor.ask_hint(ctx);
                    });
                }
            }
        }));
    }
}
