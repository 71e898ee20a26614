//! What to do about a status that the network answers, and not the server: the same for `bellwire` and `eventsource-client`,
//! which both take proxies from the environment.

/// For a proxy that requires a user and password.
pub const SET_PROXY: &str = "set user and password in the proxy's URL, as in http://user:password@proxy:3128: HTTPS_PROXY \
                             for a hub at https://, HTTP_PROXY for one at http://";

/// The rest of a sentence; `None` where the status says nothing about the network.
pub fn for_network_status(status: u16) -> Option<&'static str> {
    match status {
        407 => Some(SET_PROXY),
        511 => Some("the network requires a sign-in"),
        _ => None,
    }
}
