//! `[network]` of the settings, and the environment that stands where they say nothing: the way to the aggregator, and what
//! proves this site there.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use certs::proxy::{self, Environment, Proxy, ProxyUrlError, Route};
use serde::{Deserialize, Serialize};

use crate::durable::{self, DiskError};

/// What proves this site to the aggregator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelMode {
    /// The connection: mutual TLS, from one end to the other.
    #[default]
    Mutual,
    /// Every message, by its signature: for a site whose TLS is opened on the way.
    Signed,
}

/// How this site reaches the aggregator. The proxy's address may hold a password, so it is never printed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// `http://` or `https://` proxy, or `none`; without it HTTPS_PROXY and NO_PROXY count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// PEM file of the CA that signs the certificate of an `https://` proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_roots: Option<PathBuf>,
    /// `mutual` TLS, or `signed` messages where TLS is opened on the way.
    pub channel: ChannelMode,
    /// PEM file of the CAs that may sign the certificate of whoever opens TLS on the way; for `signed` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inspection_roots: Option<PathBuf>,
}

impl fmt::Debug for NetworkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proxy = self.proxy.as_ref().map(|_| "(not shown)");
        f.debug_struct("NetworkConfig")
            .field("proxy", &proxy)
            .field("proxy_roots", &self.proxy_roots)
            .field("channel", &self.channel)
            .field("inspection_roots", &self.inspection_roots)
            .finish()
    }
}

impl NetworkConfig {
    /// The way to `address` (host:port), by these settings and this process's environment.
    pub fn route(&self, address: &str) -> Result<Route, ProxyUrlError> {
        match proxy::chosen(self.proxy.as_deref(), &environment(), address)? {
            None => Ok(Route::Direct),
            Some(url) => Ok(Route::Via(Arc::new(Proxy::new(url, self.proxy_roots.as_deref())?))),
        }
    }

    /// The CAs of whoever may open TLS on the way, if any may.
    pub fn inspection_pem(&self) -> Result<Option<String>, DiskError> {
        let read = |path: &PathBuf| std::fs::read_to_string(path).map_err(durable::told("read", path));
        self.inspection_roots.as_ref().map(read).transpose()
    }

    /// Whether what is written can be read, whatever the address.
    pub fn check(&self) -> Result<(), ProxyUrlError> {
        proxy::chosen(self.proxy.as_deref(), &Environment::default(), "").map(drop)
    }

    /// What names the proxy that counts.
    pub fn source(&self) -> &'static str {
        if self.proxy.is_some() { "`proxy` under `[network]`" } else { "HTTPS_PROXY" }
    }

    /// The same, as it may be sent to others.
    pub fn without_names(&self) -> Self {
        let shown = "(set, not shown)";
        Self {
            proxy: self.proxy.as_ref().map(|_| shown.to_owned()),
            proxy_roots: self.proxy_roots.as_ref().map(|_| shown.into()),
            channel: self.channel,
            inspection_roots: self.inspection_roots.as_ref().map(|_| shown.into()),
        }
    }
}

fn environment() -> Environment {
    let read = |names: [&str; 2]| {
        names.into_iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    };
    Environment { https_proxy: read(["HTTPS_PROXY", "https_proxy"]), no_proxy: read(["NO_PROXY", "no_proxy"]) }
}
