//! Where the classic client and the request go.

/// `http://host:port`, with brackets around an IPv6 address that has none.
///
/// ```
/// use bellwire::classic::address::origin;
/// assert_eq!(origin("http", "127.0.0.1", 80), "http://127.0.0.1:80");
/// assert_eq!(origin("https", "::1", 443), "https://[::1]:443");
/// ```
pub fn origin(scheme: &str, host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("{scheme}://[{host}]:{port}")
    } else {
        format!("{scheme}://{host}:{port}")
    }
}

/// A part of a path as the user wrote it: what would end the path is escaped, escapes that are
/// there already stay.
///
/// ```
/// use bellwire::classic::address::path_part;
/// assert_eq!(path_part("what? no. 5#é%20"), "what%3F%20no.%205%23%C3%A9%20");
/// ```
pub fn path_part(text: &str) -> String {
    let mut part = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'!' | b'$'..=b';' | b'=' | b'@'..=b'Z' | b'_' | b'a'..=b'z' | b'~' => {
                part.push(char::from(byte));
            }
            _ => part.push_str(&format!("%{byte:02X}")),
        }
    }
    part
}
