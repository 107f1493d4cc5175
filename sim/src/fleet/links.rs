//! The connections to the control plane. Some agents share each; one that fails is made anew, once for all of them.

use std::sync::{Mutex, PoisonError};

use nebula_core::address::HostPort;
use nebula_core::exit::{Exit, Fatal};
use nebula_core::timing;
use nebula_proto::platform_service_client::PlatformServiceClient;
use tonic::transport::{Channel, Endpoint};

/// A client, and which of its slot's connections it uses.
pub(crate) struct Link {
    pub(crate) client: PlatformServiceClient<Channel>,
    number: u64,
}

/// All connections.
pub(crate) struct Links {
    endpoint: Endpoint,
    agents_each: usize,
    slots: Vec<Mutex<(u64, Channel)>>,
}

impl Links {
    /// Connections for so many agents, made when first used. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the address is none.
    pub(crate) fn new(control_plane: &HostPort, agents: u32, agents_each: u32) -> Result<Self, Fatal> {
        let endpoint = Endpoint::from_shared(format!("http://{control_plane}"))
            .map_err(|_| {
                Fatal::new(Exit::Config, format!("--control-plane {control_plane} is no address"))
                    .hint("give host:port, as nebulad's ready line says")
            })?
            .connect_timeout(timing::CONNECT_TIMEOUT)
            .http2_keep_alive_interval(timing::KEEPALIVE_EVERY)
            .keep_alive_timeout(timing::KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        let slots = agents.div_ceil(agents_each);
        let slots = (0..slots).map(|_| Mutex::new((0, endpoint.connect_lazy()))).collect();
        Ok(Self { endpoint, agents_each: agents_each as usize, slots })
    }

    /// The connection of an agent.
    pub(crate) fn of(&self, agent: usize) -> Option<Link> {
        let slot = self.slots.get(agent / self.agents_each)?;
        let (number, channel) = slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(Link { client: PlatformServiceClient::new(channel), number })
    }

    /// A call of this agent failed: the next one gets a fresh connection, unless another agent has asked for it.
    pub(crate) fn failed(&self, agent: usize, link: &Link) {
        let Some(slot) = self.slots.get(agent / self.agents_each) else { return };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.0 == link.number {
            *slot = (link.number + 1, self.endpoint.connect_lazy());
        }
    }
}
