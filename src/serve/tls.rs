//! TLS for every door: the server's certificate, read anew when its files change, and connections that are made without
//! holding up others. Nothing falls back to plain text: a client that cannot speak TLS is not served.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tracing::{debug, info, warn};

use crate::config::TlsFiles;
use crate::error::{Error, Kind, Result};
use crate::task;

/// How often it is looked whether the files have changed, at most.
const LOOK: Duration = Duration::from_secs(2);
/// So long before a certificate ends the log says so, when it is read.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// How long a client may take for the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections of one door.
const MOST_CONNECTIONS: usize = 2_000;
/// Connections that are made and not taken over yet.
const MADE: usize = 16;

/// The server's side of TLS.
pub struct Tls {
    files: TlsFiles,
    now: Mutex<Now>,
}

struct Now {
    config: Arc<ServerConfig>,
    stamp: Vec<Option<SystemTime>>,
    looked: Instant,
}

impl Tls {
    /// Reads the certificate and its key.
    pub fn load(files: &TlsFiles) -> Result<Arc<Self>> {
        let now = Now { config: read(files)?, stamp: stamp(files), looked: Instant::now() };
        Ok(Arc::new(Self { files: files.clone(), now: Mutex::new(now) }))
    }

    /// Makes connections secure that speak `protocol` (ALPN).
    pub(super) fn acceptor(&self, protocol: &str) -> TlsAcceptor {
        let mut now = self.now.lock();
        if now.looked.elapsed() >= LOOK {
            now.looked = Instant::now();
            let stamp = stamp(&self.files);
            if stamp != now.stamp {
                match read(&self.files) {
                    Ok(config) => {
                        info!(cert = %self.files.cert.display(), "certificate taken over");
                        (now.config, now.stamp) = (config, stamp);
                    }
                    Err(error) => warn!(error = %error, "certificate not taken over, the one before goes on"),
                }
            }
        }
        let mut config = ServerConfig::clone(&now.config);
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// When the files were written last.
fn stamp(files: &TlsFiles) -> Vec<Option<SystemTime>> {
    let paths = [Some(&files.cert), Some(&files.key), files.client_ca.as_ref()];
    paths.into_iter().flatten().map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok()).collect()
}

fn read(files: &TlsFiles) -> Result<Arc<ServerConfig>> {
    let wrong = |path: &Path, cause: String| {
        Error::new(Kind::Usage, format!("[serve.tls] {}: {cause}", path.display()))
            .hint("cert and key are PEM files: the certificate with its chain, and its private key")
    };
    let certificates = certificates(&files.cert).map_err(|cause| wrong(&files.cert, cause))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|cause| wrong(&files.key, cause.to_string()))?;
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| Error::new(Kind::Internal, "TLS cannot be set up").because(error))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in self::certificates(path).map_err(|cause| wrong(path, cause))? {
                roots.add(certificate).map_err(|cause| wrong(path, cause.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|cause| wrong(path, cause.to_string()))?)
        }
    };
    let left = certificates.first().and_then(|own| time_left(own, UnixTime::now()));
    let config = builder.with_single_cert(certificates, key).map_err(|cause| wrong(&files.key, cause.to_string()))?;
    tell(left, &files.cert);
    Ok(Arc::new(config))
}

/// Says it when a certificate ends soon, or has ended: who checks it does not come in then.
fn tell(left: Option<Duration>, cert: &Path) {
    let cert = cert.display();
    match left {
        Some(Duration::ZERO) => warn!(%cert, "certificate has expired, clients that check it do not connect"),
        Some(left) if left < SOON => warn!(%cert, hours = left.as_secs() / 3600, "certificate expires soon"),
        _ => {}
    }
}

/// How long a certificate is still valid; `None` if it cannot be told.
fn time_left(certificate: &CertificateDer<'_>, now: UnixTime) -> Option<Duration> {
    let own = webpki::EndEntityCert::try_from(certificate).ok()?;
    // Nothing is trusted here, so this always fails; at the end of days because of the certificate's end.
    let late = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX / 4));
    let usage = webpki::KeyUsage::server_auth();
    match own.verify_for_usage(&[], &[], &[], late, usage, None, None).err()? {
        webpki::Error::CertExpired { not_after, .. } => {
            Some(Duration::from_secs(not_after.as_secs().saturating_sub(now.as_secs())))
        }
        _ => None,
    }
}

fn certificates(path: &PathBuf) -> std::result::Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(path).map_err(|cause| cause.to_string())?;
    let found = found.collect::<std::result::Result<Vec<_>, _>>().map_err(|cause| cause.to_string())?;
    if found.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(found) }
}

/// A connection, secured if the door is.
pub(super) struct Wire {
    stream: Stream,
    /// Its place among the connections of the door.
    place: Option<OwnedSemaphorePermit>,
}

enum Stream {
    Plain(TcpStream),
    Secured(Box<TlsStream<TcpStream>>),
}

impl Wire {
    /// A connection in plain text.
    pub(super) fn plain(stream: TcpStream) -> Self {
        Self { stream: Stream::Plain(stream), place: None }
    }

    /// Whether nobody between can read it.
    pub(super) fn is_secured(&self) -> bool {
        matches!(self.stream, Stream::Secured(_))
    }

    fn tcp(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Secured(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Secured(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Secured(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Secured(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Secured(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl Connected for Wire {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.tcp().connect_info()
    }
}

/// Connections as they are made: handshakes go on beside each other, each within its time.
pub(super) fn incoming(listener: TcpListener, tls: Option<Arc<Tls>>, protocol: &'static str) -> mpsc::Receiver<Wire> {
    let (made, taken) = mpsc::channel(MADE);
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    task::spawn("accept", async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = made.closed() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            // What is too much is closed at once.
            let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
            let _ = stream.set_nodelay(true);
            let (tls, made) = (tls.clone(), made.clone());
            task::spawn("handshake", async move {
                let mut wire = match tls {
                    None => Wire::plain(stream),
                    Some(tls) => match secure(stream, &tls, protocol).await {
                        Ok(wire) => wire,
                        Err(error) => return debug!(%error, "a client did not come to speak TLS"),
                    },
                };
                wire.place = Some(place);
                let _ = made.send(wire).await;
            });
        }
    });
    taken
}

/// The server's part of a handshake.
pub(super) async fn secure(stream: TcpStream, tls: &Tls, protocol: &str) -> io::Result<Wire> {
    let secured = tokio::time::timeout(HANDSHAKE, tls.acceptor(protocol).accept(stream)).await??;
    Ok(Wire { stream: Stream::Secured(Box::new(secured)), place: None })
}
