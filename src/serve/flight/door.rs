//! How large a message may be depends on who sends it.

use std::convert::Infallible;
use std::task::{Context, Poll};

use arrow_flight::flight_service_server::FlightServiceServer;
use http::{Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::service::{FlightSql, MayWrite};

/// Statement texts and parameters of one request.
const REQUEST_BYTES: usize = 16 << 20;
/// Rows in one message of who may write: clients send a batch as large as it is.
const ROWS_BYTES: usize = 256 << 20;

type Server = FlightServiceServer<FlightSql>;

/// The service, for who may write and for all others.
#[derive(Clone)]
pub(super) struct Door {
    writers: Server,
    others: Server,
}

impl Door {
    pub(super) fn new(service: FlightSql) -> Self {
        let server =
            |most| Server::new(service.clone()).max_decoding_message_size(most).max_encoding_message_size(usize::MAX);
        Self { writers: server(ROWS_BYTES), others: server(REQUEST_BYTES) }
    }
}

impl NamedService for Door {
    const NAME: &'static str = Server::NAME;
}

impl Service<Request<Body>> for Door {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = <Server as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = match request.extensions().get::<MayWrite>() {
            Some(MayWrite) => &mut self.writers,
            None => &mut self.others,
        };
        server.call(request)
    }
}
