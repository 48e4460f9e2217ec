//! Which way leads to the aggregator: straight, or through the hospital's HTTP proxy. Settings and environment as values.
//!
//! A proxy sees an address and a stream of TLS that it cannot read: the session inside is with the aggregator, by the
//! federation's own CA. Its credentials are in no error, log or debug output.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use rustls::ClientConfig;

use crate::{CertsError, tls};

/// The way to an address.
#[derive(Clone, Debug, Default)]
pub enum Route {
    /// Straight.
    #[default]
    Direct,
    /// Through a proxy.
    Via(Arc<Proxy>),
}

/// A proxy that speaks HTTP CONNECT.
#[derive(Clone)]
pub struct Proxy {
    url: ProxyUrl,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

/// A proxy as it is written: `http://host:port` or `https://host:port`, with `user:password@` before the host if it asks for
/// that. Printed without them.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl {
    is_https: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    credentials: Option<(String, String)>,
}

/// Why a proxy cannot be used as it is written. What was written is not repeated: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum ProxyUrlError {
    /// Another scheme, or none.
    #[error(
        "a proxy is written as http://host:port or https://host:port, and what is given begins with neither; SOCKS is not spoken"
    )]
    Scheme,
    /// No host, or no port.
    #[error(
        "the proxy's host and port are not understood: write http://host:port, with user:password@ before the host if need be, and %-escapes for `@`, `:` and `/` in a password"
    )]
    Host,
    /// An https:// proxy, and no CA to know it by.
    #[error(
        "the proxy is https://, and nothing says which CA signs its certificate: name the CA's PEM file as `proxy_roots` under `[network]`, or write http:// if the proxy speaks plain HTTP on that port"
    )]
    NoRoots,
    /// The CA's file.
    #[error("`proxy_roots`: {0}")]
    Roots(#[from] CertsError),
}

impl FromStr for ProxyUrl {
    type Err = ProxyUrlError;
    fn from_str(written: &str) -> Result<Self, ProxyUrlError> {
        let written = written.trim();
        let (scheme, rest) = written.split_once("://").ok_or(ProxyUrlError::Scheme)?;
        let is_https = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(ProxyUrlError::Scheme),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (login, place) =
            authority.rsplit_once('@').map_or((None, authority), |(login, place)| (Some(login), place));
        let (host, port) = host_and_port(place, if is_https { 443 } else { 80 }).ok_or(ProxyUrlError::Host)?;
        let credentials = login.map(|login| login.split_once(':').unwrap_or((login, "")));
        let credentials = credentials.map(|(user, password)| Some((unescaped(user)?, unescaped(password)?)));
        let credentials = credentials.map(|both| both.ok_or(ProxyUrlError::Host)).transpose()?;
        Ok(Self { is_https, host, port, credentials })
    }
}

impl ProxyUrl {
    /// The value of `Proxy-Authorization`, if the proxy is given credentials (RFC 7617).
    pub(crate) fn authorization(&self) -> Option<String> {
        use base64::Engine;
        let (user, password) = self.credentials.as_ref()?;
        Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"))))
    }
}

/// Where it is, and whether it is told who asks; not what.
impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        let bracketed = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        write!(f, "{scheme}://{bracketed}:{}", self.port)
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}{}", if self.credentials.is_some() { " with credentials (not shown)" } else { "" })
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl Proxy {
    /// The proxy at `url`; one over TLS is known by the CAs in the PEM file `roots`.
    pub fn new(url: ProxyUrl, roots: Option<&Path>) -> Result<Self, ProxyUrlError> {
        let tls = match (url.is_https, roots) {
            (false, _) => None,
            (true, None) => return Err(ProxyUrlError::NoRoots),
            (true, Some(roots)) => Some(tls::proxy_config(&crate::files::read(roots)?)?),
        };
        Ok(Self { url, tls })
    }

    /// Where it is.
    pub fn url(&self) -> &ProxyUrl {
        &self.url
    }
}

/// What the environment says: the values of HTTPS_PROXY and NO_PROXY, or of their lower-case forms.
#[derive(Clone, Default)]
pub struct Environment {
    /// The proxy for connections over TLS.
    pub https_proxy: Option<String>,
    /// Hosts that are reached without it.
    pub no_proxy: Option<String>,
}

/// The proxy that leads to `address` (host:port), if one does. What the settings say counts before the environment, and
/// `"none"` there means none; NO_PROXY is of the environment's proxy alone.
pub fn chosen(
    written: Option<&str>,
    environment: &Environment,
    address: &str,
) -> Result<Option<ProxyUrl>, ProxyUrlError> {
    match written {
        Some("none") => Ok(None),
        Some(written) => written.parse().map(Some),
        None => {
            let without = environment.no_proxy.as_deref().is_some_and(|list| is_exempt(list, address));
            let written = environment.https_proxy.as_deref().filter(|written| !written.trim().is_empty() && !without);
            written.map(with_scheme).map(|written| written.parse()).transpose()
        }
    }
}

/// Many environments write `host:port`, which is an http:// proxy.
fn with_scheme(written: &str) -> String {
    if written.contains("://") { written.to_owned() } else { format!("http://{written}") }
}

/// Whether NO_PROXY names a host: `*`, a host or the domain that it is in, an address, a network, each perhaps with a port.
fn is_exempt(list: &str, address: &str) -> bool {
    let Some((host, port)) = host_and_port(address, 443) else { return false };
    let ip: Option<IpAddr> = host.parse().ok();
    list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let (Some(ip), Some((network, bits))) = (ip, entry.split_once('/')) {
            return network.parse().is_ok_and(|network| bits.parse().is_ok_and(|bits| is_within(ip, network, bits)));
        }
        // An entry without a port is of every port.
        let Some((name, of_port)) = host_and_port(entry, port) else { return false };
        let name = name.trim_start_matches("*.").trim_start_matches('.').to_ascii_lowercase();
        let host = host.to_ascii_lowercase();
        let in_domain = ip.is_none() && host.strip_suffix(&name).is_some_and(|before| before.ends_with('.'));
        of_port == port && (host == name || in_domain && !name.is_empty())
    })
}

fn is_within(ip: IpAddr, network: IpAddr, bits: u32) -> bool {
    let prefix = |bytes: &[u8]| -> Vec<bool> {
        bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> (7 - bit) & 1 == 1)).take(bits as usize).collect()
    };
    match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => bits <= 32 && prefix(&ip.octets()) == prefix(&network.octets()),
        (IpAddr::V6(ip), IpAddr::V6(network)) => bits <= 128 && prefix(&ip.octets()) == prefix(&network.octets()),
        _ => false,
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`, or a bare v6 address.
fn host_and_port(written: &str, default: u16) -> Option<(String, u16)> {
    let (host, port) = match written.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            match after.strip_prefix(':') {
                None if !after.is_empty() => return None,
                port => (host, port),
            }
        }
        None if written.matches(':').count() > 1 => (written, None),
        None => written.split_once(':').map_or((written, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Some(default), |port| port.parse().ok().filter(|port| *port > 0))?;
    let permitted = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '*');
    (!host.is_empty() && host.chars().all(permitted)).then(|| (host.to_owned(), port))
}

/// Without %-escapes (RFC 3986).
fn unescaped(written: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), written.as_bytes());
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    // A line break would end the header that it is written into.
    (!text.contains(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_reads_as_it_is_written_and_prints_without_its_credentials() {
        for (written, shown, authorization) in [
            ("http://proxy.example.org:3128", "http://proxy.example.org:3128", None),
            ("HTTPS://proxy.example.org/", "https://proxy.example.org:443", None),
            ("http://proxy", "http://proxy:80", None),
            ("http://[::1]:8080", "http://[::1]:8080", None),
            ("http://user:se%3Acr%40t@proxy:1", "http://proxy:1", Some("Basic dXNlcjpzZTpjckB0")),
            ("http://user@proxy:1", "http://proxy:1", Some("Basic dXNlcjo=")),
        ] {
            let url: ProxyUrl = written.parse().unwrap();
            assert_eq!((url.to_string().as_str(), url.authorization().as_deref()), (shown, authorization));
            let debug = format!("{url:?} {:?}", Route::Via(Arc::new(Proxy { url: url.clone(), tls: None })));
            assert!(!debug.contains("se:cr") && !debug.contains("se%3A") && !debug.contains("dXNl"), "{debug}");
        }
        for wrong in [
            "socks5://user:pass@h:1",
            "proxy:3128",
            "http://:pass@:1",
            "http://h:0",
            "http://h:99999",
            "http://h/path:1",
            "http://us%0d%0aer:p@h:1",
            "http://a:%zz@h:1",
            "http://h h:1",
        ] {
            let told = wrong.parse::<ProxyUrl>().unwrap_err().to_string();
            assert!(told.contains("http://host:port") && !told.contains("pass@"), "{wrong}: {told}");
        }
    }

    #[test]
    fn the_settings_count_before_the_environment_and_no_proxy_is_of_the_environments() {
        let environment = Environment {
            https_proxy: Some("env.example.org:3128".to_owned()),
            no_proxy: Some("in.example.org".to_owned()),
        };
        let way = |written: Option<&str>, address: &str| {
            chosen(written, &environment, address).unwrap().map_or("straight".to_owned(), |url| url.to_string())
        };
        assert_eq!(way(None, "a.example.org:4433"), "http://env.example.org:3128");
        assert_eq!(way(None, "in.example.org:4433"), "straight");
        assert_eq!(way(Some("none"), "a.example.org:4433"), "straight");
        assert_eq!(way(Some("http://own:1"), "in.example.org:4433"), "http://own:1");
        assert!(chosen(Some("own:1"), &environment, "a:1").is_err());
        let nothing = Environment { https_proxy: Some(" ".to_owned()), no_proxy: None };
        assert!(chosen(None, &nothing, "a:1").unwrap().is_none());
    }

    #[test]
    fn no_proxy_names_hosts_domains_addresses_networks_and_ports() {
        for (list, address, exempt) in [
            ("*", "a.example.org:1", true),
            ("example.org", "a.example.org:1", true),
            (".example.org", "a.example.org:1", true),
            ("*.example.org", "a.example.org:1", true),
            ("example.org", "example.org:1", true),
            ("example.org", "anexample.org:1", false),
            ("Example.ORG", "a.example.org:1", true),
            ("x, a.example.org:2", "a.example.org:1", false),
            ("x, a.example.org:1", "a.example.org:1", true),
            ("10.0.0.0/8", "10.200.3.4:1", true),
            ("10.0.0.0/8", "11.0.0.1:1", false),
            ("10.0.0.7", "10.0.0.7:1", true),
            ("0.0.7", "10.0.0.7:1", false),
            ("fd00::/8", "[fd12::1]:1", true),
            ("::1", "[::1]:1", true),
            ("", "a:1", false),
            (" , ", "a:1", false),
            (".", "a:1", false),
        ] {
            assert_eq!(is_exempt(list, address), exempt, "{list:?} {address}");
        }
    }
}
