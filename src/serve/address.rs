//! Binding an address, with errors that name the setting it came from.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use tokio::net::TcpListener;

use crate::error::{Error, Kind, Result};

/// Listens on `address`, the value of `[serve] <setting>`. Port 0 takes a free one. Only a `closed` door, with accounts and TLS,
/// can be reached from other machines.
pub(super) async fn bind(address: SocketAddr, setting: &str, closed: bool) -> Result<TcpListener> {
    if !address.ip().is_loopback() && !closed {
        let text =
            format!("[serve] {setting} = \"{address}\" can be reached from other machines, without accounts and TLS");
        return Err(
            Error::new(Kind::Usage, text).hint("use a loopback address such as 127.0.0.1, or see docs/security.md")
        );
    }
    TcpListener::bind(address).await.map_err(|cause| {
        let text = format!("cannot listen on [serve] {setting} = \"{address}\"");
        let hint = match cause.kind() {
            std::io::ErrorKind::AddrInUse => {
                format!("another program has port {}: stop it, or set another address", address.port())
            }
            _ => "set another address".to_owned(),
        };
        Error::new(Kind::Usage, text).because(cause).hint(hint)
    })
}

/// Another handle of a door that is bound: whoever has it goes on where the other stops.
pub fn again(listener: &TcpListener) -> std::io::Result<TcpListener> {
    let socket = std::net::TcpListener::from(listener.as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_and_an_open_address_are_refused_with_the_setting_named() {
        let first = bind("127.0.0.1:0".parse().unwrap(), "http", false).await.unwrap();
        let taken = bind(first.local_addr().unwrap(), "http", false).await.unwrap_err();
        let open = bind("0.0.0.0:0".parse().unwrap(), "http", false).await.unwrap_err();
        for error in [taken, open] {
            assert!(error.to_string().contains("[serve] http"), "{error}");
            assert_eq!(error.kind(), Kind::Usage);
        }
    }
}
