//! The kernel's announcements of changes to links, addresses and routes (rtnetlink(7)). No right is needed to receive them.
//!
//! What they say is not read: they are an occasion to look. So none can be misunderstood, and one that was lost because too many
//! came at once costs nothing.

use std::io;
use std::os::unix::net::UnixDatagram as StdDatagram;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use tokio::net::UnixDatagram;

/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_IFADDR` and `RTMGRP_IPV6_ROUTE` of
/// `linux/rtnetlink.h`.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// A socket that receives them. Its type is of another family, of which it only uses `recv`, which all families share; the
/// runtime offers a descriptor of any kind only to unsafe code.
pub(super) struct Announcements {
    socket: UnixDatagram,
}

impl Announcements {
    /// Subscribes to them.
    ///
    /// # Errors
    /// Where there is no netlink: another kernel, or a sandbox that refuses it.
    pub(super) fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self { socket: UnixDatagram::from_std(StdDatagram::from(socket))? })
    }

    /// Takes one announcement, or waits for it. Cancel safe.
    ///
    /// # Errors
    /// When nothing more will be announced.
    pub(super) async fn next(&mut self) -> io::Result<()> {
        // The kernel cuts off what is longer.
        let mut message = [0; 16];
        match self.socket.recv(&mut message).await {
            Ok(_) => Ok(()),
            // Some were lost: an occasion to look, too.
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
