//! The sockets on which nebulad listens, and how many a process may have.

use std::net::{IpAddr, SocketAddr, TcpListener};

use nebula_core::exit::{Exit, Fatal};
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Backlog of the listeners.
const BACKLOG: i32 = 4_096;

/// A port that is ours while nobody can connect to it yet.
pub(super) struct Reserved {
    socket: TcpListener,
    wanted: SocketAddr,
    flag: &'static str,
}

impl Reserved {
    /// Takes the port; 0 takes a free one.
    ///
    /// # Errors
    /// When it is taken or not ours to take; `flag` chooses another.
    pub(super) fn take(bind: IpAddr, port: u16, flag: &'static str) -> Result<Self, Fatal> {
        let wanted = SocketAddr::new(bind, port);
        let socket = bound(wanted).map_err(|error| refused(&error, wanted, flag))?;
        Ok(Self { socket, wanted, flag })
    }

    /// Where it will be reached.
    ///
    /// # Errors
    /// When the operating system does not say.
    pub(super) fn address(&self) -> Result<SocketAddr, Fatal> {
        self.socket.local_addr().map_err(|error| refused(&error, self.wanted, self.flag))
    }

    /// From now on others can connect.
    ///
    /// # Errors
    /// When somebody else listens there by now.
    pub(super) fn listen(self) -> Result<TcpListener, Fatal> {
        net::listen(&self.socket, BACKLOG).map_err(|error| refused(&error.into(), self.wanted, self.flag))?;
        Ok(self.socket)
    }
}

/// A socket that can take its port again right after a restart.
fn bound(address: SocketAddr) -> std::io::Result<TcpListener> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    net::bind(&socket, &address)?;
    Ok(TcpListener::from(socket))
}

fn refused(error: &std::io::Error, address: SocketAddr, flag: &str) -> Fatal {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            Fatal::new(Exit::PortTaken, format!("port {} is taken ({address})", address.port())).hint(
                format!("stop what listens there, or choose another port with {flag}; 0 takes a free one"),
            )
        }
        std::io::ErrorKind::PermissionDenied => {
            Fatal::new(Exit::NotAllowed, format!("not allowed to listen on {address}"))
                .hint(format!("ports below 1024 need privileges; choose another with {flag}"))
        }
        _ => Fatal::new(Exit::Config, format!("cannot listen on {address}: {error}"))
            .hint("--bind takes an address of this machine"),
    }
}

/// Lets this process have as many open files as it may: each agent and each client takes one, and the usual limit of
/// 1,024 is meant for others.
pub(super) fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    // None is unlimited.
    if limit.current.is_some() && limit.current != limit.maximum {
        let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
        if let Err(error) = raised {
            tracing::warn!(%error, limit = ?limit.current, "limit of open files not raised");
        }
    }
}
