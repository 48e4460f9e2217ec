//! Puts a federation on the network: listener, TLS, places, calls, driver; until told to stop.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use certs::CertsError;
use certs::authority::Authority;
use proto::wire::coordination_server::CoordinationServer;
use proto::wire::enrolment_server::EnrolmentServer;
use proto::wire::federation_server::FederationServer;
use proto::{FRAME_BYTES, MESSAGE_BYTES};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{interval, sleep, timeout};
use tokio_stream::StreamExt;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

use crate::authority;
use crate::clock::wall;
use crate::desk::calls::PersonCalls;
use crate::download::DownloadLayer;
use crate::driver;
use crate::federation::Federation;
use crate::gate::{Gate, Remembered};
use crate::identity::Places;
use crate::permitting::PermittingLayer;
use crate::server::{self, EnrolmentCalls, SiteCalls};

/// What is served, and where.
#[derive(Debug)]
pub struct Serving {
    /// The state folder, for the server's key.
    pub state: PathBuf,
    /// The federation.
    pub federation: Arc<Federation>,
    /// Its authority.
    pub authority: Arc<Authority>,
    /// Host names and addresses in the server's certificate.
    pub names: Vec<String>,
    /// Places for connections.
    pub places: Places,
    /// Time after which the server takes a new certificate.
    pub renewed_every: Duration,
    /// Asks for a new certificate now.
    pub renew: Arc<Notify>,
}

/// Why serving ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}; end the program that has this port, or choose another with `--listen` or \
         `listen` in aggregator.toml"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The file of `--ready-file` cannot be written.
    #[error(
        "the file of --ready-file, {path}, cannot be written: {source}; its folder must be there and belong to this user"
    )]
    ReadyFile {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The server's certificate cannot be made.
    #[error("the server's certificate: {0}")]
    Certificate(#[from] CertsError),
    /// The connections cannot be served.
    #[error("serving: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The network cannot be used.
    #[error("the network: {0}")]
    Io(#[from] io::Error),
    /// A part of the server panicked: it must not go on without it.
    #[error("a part of the server failed: {0}")]
    Panicked(tokio::task::JoinError),
}

/// Bytes of a call and of a connection that may be on their way, unread. Memory grows with the sites by this and by the
/// chunk at hand; a chunk is answered before the next is sent, so more would not be faster.
const STREAM_WINDOW: u32 = 2 * FRAME_BYTES;
const CONNECTION_WINDOW: u32 = 2 * STREAM_WINDOW;
/// Calls of one connection at a time; an agent needs two.
const CALLS: u32 = 16;
/// Calls of one connection that are taken back before they are looked at: one more ends it.
const RESETS: usize = 2 * CALLS as usize;
/// A silent connection is asked whether it lives after this, and dropped after as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Longest wait for calls under way when the server stops.
const FAREWELL: Duration = Duration::from_secs(10);
/// Longest wait, when no more connections are let in, for the handshakes under way.
const HANDSHAKES_END: Duration = Duration::from_secs(1);
/// Longest request to enrol; strangers are read no further than this.
const ENROLMENT_BYTES: usize = 32 << 10;
/// Time between two looks for a CA that the operator's commands changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause before a new certificate that could not be made is tried again. Half of the old one's life is left.
const RENEWED_AGAIN: Duration = Duration::from_secs(60 * 60);

/// Listens on an address; port 0 takes a free one.
pub fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|source| ServeError::Listen { address, source })
}

impl Serving {
    /// Serves until `stop` completes; then calls under way are finished. The server's certificate is made anew every
    /// `renewed_every`: new connections get the new one, those there are end gracefully, and agents connect again. One that
    /// cannot be made leaves the old one in service.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        let mut generations = JoinSet::new();
        let driver = driver::drive(Arc::clone(&self.federation));
        let (mut driver, mut stop) = (pin!(driver), pin!(stop));
        // Dropping it ends the generation.
        let mut authority = Arc::clone(&self.authority);
        let remembered = Arc::new(Remembered::new()?);
        let mut end = self.begin_generation(&authority, &listener, &remembered, &mut generations)?;
        let mut look = interval(LOOK_EVERY);
        let mut expired = pin!(sleep(self.renewed_every));
        loop {
            let is_due = tokio::select! {
                () = &mut expired => true,
                () = self.renew.notified() => true,
                _ = look.tick() => self.takes_another(&mut authority),
                () = &mut stop => break,
                panicked = &mut driver => return Err(ServeError::Panicked(panicked)),
                // An earlier generation has said goodbye to its last connection; or this one failed.
                Some(ended) = generations.join_next() => {
                    ended.map_err(ServeError::Panicked)??;
                    false
                }
            };
            if !is_due {
                continue;
            }
            let again = match self.begin_generation(&authority, &listener, &remembered, &mut generations) {
                Ok(next) => {
                    tracing::info!("the server's certificate is renewed");
                    end = next;
                    self.renewed_every
                }
                Err(error) => {
                    tracing::error!(%error, "the server's certificate could not be renewed; the old one is kept, and it is tried again");
                    RENEWED_AGAIN.min(self.renewed_every)
                }
            };
            expired.set(sleep(again));
        }
        tracing::info!("stopping: calls under way are finished");
        drop(end);
        farewell(generations).await?;
        let federation = Arc::clone(&self.federation);
        spawn_blocking(move || federation.enter_turned_away()).await.map_err(ServeError::Panicked)
    }

    /// Whether the operator's commands changed the authority; takes the one there is now.
    fn takes_another(&self, authority: &mut Arc<Authority>) -> bool {
        match authority::changed(&self.state, authority) {
            Ok(None) => false,
            Ok(Some(found)) => {
                tracing::info!("the federation's CA changes");
                *authority = Arc::new(found);
                true
            }
            Err(error) => {
                tracing::error!(%error, "the changed CA cannot be read; the one before is kept");
                false
            }
        }
    }

    /// Serves the connections that arrive from now on, with a new certificate, until what is returned is dropped.
    fn begin_generation(
        &self,
        authority: &Arc<Authority>,
        listener: &TcpListener,
        remembered: &Arc<Remembered>,
        generations: &mut JoinSet<Result<(), ServeError>>,
    ) -> Result<watch::Sender<()>, ServeError> {
        let (end, ended) = watch::channel(());
        generations.spawn(self.generation(authority, listener.try_clone()?, remembered, ended)?);
        Ok(end)
    }

    fn generation(
        &self,
        authority: &Arc<Authority>,
        listener: TcpListener,
        remembered: &Arc<Remembered>,
        ended: watch::Receiver<()>,
    ) -> Result<impl Future<Output = Result<(), ServeError>> + Send + 'static, ServeError> {
        let config = authority::server_config(&self.state, authority, &self.names, wall())?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (places, admitted) = (self.places.clone(), self.federation.admitted());
        let gate = Gate::new(&self.federation, authority, &places, Arc::clone(remembered))?;
        let arriving = certs::acceptor::connections(listener, config, authority.federation().clone())
            .until(is_over(ended.clone()));
        let seated = arriving.filter_map(move |connection| match connection {
            Ok(connection) => places.seat(connection, &admitted).map(Ok),
            Err(error) => Some(Err(error)),
        });
        let calls = SiteCalls::new(Arc::clone(&self.federation), Arc::clone(authority));
        let enrolment = EnrolmentCalls::new(Arc::clone(&self.federation), Arc::clone(authority));
        let persons = PersonCalls::new(Arc::clone(&self.federation), Arc::clone(authority), &self.names, &self.state);
        let server = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_BYTES)
            .max_concurrent_streams(CALLS)
            .http2_max_pending_accept_reset_streams(Some(RESETS))
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .layer(gate)
            .layer(PermittingLayer(Arc::clone(&self.federation)))
            .layer(DownloadLayer)
            .add_service(InterceptedService::new(
                FederationServer::new(calls)
                    .max_decoding_message_size(MESSAGE_BYTES)
                    .max_encoding_message_size(MESSAGE_BYTES),
                server::identified,
            ))
            .add_service(CoordinationServer::new(persons).max_decoding_message_size(MESSAGE_BYTES))
            .add_service(EnrolmentServer::new(enrolment).max_decoding_message_size(ENROLMENT_BYTES));
        let until = async move {
            is_over(ended).await;
            sleep(HANDSHAKES_END).await;
        };
        Ok(async move { Ok(server.serve_with_incoming_shutdown(seated, until).await?) })
    }
}

/// Completes when the generation's end is dropped.
async fn is_over(mut ended: watch::Receiver<()>) {
    while ended.changed().await.is_ok() {}
}

async fn farewell(mut generations: JoinSet<Result<(), ServeError>>) -> Result<(), ServeError> {
    let all = async {
        while let Some(ended) = generations.join_next().await {
            ended.map_err(ServeError::Panicked)??;
        }
        Ok(())
    };
    let Ok(done) = timeout(FAREWELL, all).await else {
        tracing::warn!("a call under way was broken off; the site goes on from there");
        generations.shutdown().await;
        return Ok(());
    };
    done
}
