//! One server: what it holds, and which of its rooms answers a request.
//!
//! In: requests as hyper reads them. Out: answers. Questions are answered in turn, so that a push waits for one of them at
//! most; what they are answered with has room, so that readers who are slow take no more memory than that.
//! Not here: connections and their clocks (`super`), what is an answer (`push`, `ingest`, `query`, `page`).

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;

use axum::extract::Query;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::sync::{Notify, Semaphore, watch};

use super::connect::{self, Accepted};
use super::connection::Progress;
use super::meters::ServerMeters;
use super::query::{Host, Question, Resolved};
use super::refusal::{Code, Refusal};
use super::store::{Journal, Safety, Store};
use super::web::{
    self, Answer, AnswerRoom, BodyError, BodyRoom, check_origin, json, method_not_allowed, plain, refused,
    says_close,
};
use super::{Config, ServeError, ingest, page, push, query};
use crate::meters::{CONTENT_TYPE, Meters};
use crate::time::WallNs;

/// Why a request gets no answer: its connection is of no more use.
#[derive(Debug, thiserror::Error)]
#[error("the request did not arrive whole")]
pub(super) struct Unanswerable(#[source] hyper::Error);

/// What a Pyroscope says of itself, said of this.
fn build_info() -> String {
    serde_json::json!({ "status": "success", "data": {
        "version": env!("CARGO_PKG_VERSION"), "revision": "", "branch": "", "buildUser": "", "buildDate": "", "goVersion": "",
    }})
    .to_string()
}

/// All that connections share.
pub(super) struct Server {
    pub(super) config: Config,
    address: IpAddr,
    host: Host,
    bodies: BodyRoom,
    answers: AnswerRoom,
    pub(super) store: RefCell<Store>,
    /// The store has changed and is to be made safe.
    pub(super) changed: Notify,
    /// How far it is safe.
    pub(super) safety: watch::Sender<Safety>,
    /// Who may ask the store.
    turns: Semaphore,
    pub(super) meters: ServerMeters,
    /// Another number each time the server starts, so that nobody takes an old answer for a new one.
    boot: u64,
}

impl Server {
    /// A server with the history that is in its folder, and who writes to that.
    pub(super) fn new(
        config: Config,
        address: IpAddr,
        meters: &Meters,
    ) -> Result<(Self, Option<Journal>), ServeError> {
        let (store, journal) = Store::open(config.bounds(), WallNs::now())
            .map_err(|error| ServeError::Store(error.to_string()))?;
        let meters = ServerMeters::new(meters);
        let server = Self {
            bodies: BodyRoom::new(config.body_bytes_max, config.bodies_bytes_max),
            answers: AnswerRoom::new(config.answers_bytes_max, meters.answers_waited.clone()),
            host: Host::this(config.agent),
            config,
            address,
            safety: watch::Sender::new(store.safety()),
            store: RefCell::new(store),
            changed: Notify::new(),
            turns: Semaphore::new(1),
            meters,
            boot: WallNs::now().0.unsigned_abs(),
        };
        Ok((server, journal))
    }

    /// Waits until all that was pushed up to now is on the disk.
    async fn safe(&self) -> Result<(), Refusal> {
        let change = self.store.borrow().version();
        self.changed.notify_one();
        let mut safety = self.safety.subscribe();
        loop {
            let known = safety.borrow_and_update().of(change);
            match known {
                Some(Ok(())) => return Ok(()),
                Some(Err(why)) => {
                    let message = format!("the history cannot be written, so nothing was stored: {why}");
                    return Err(Refusal::new(Code::Unavailable, "disk", message));
                }
                None => {}
            }
            safety.changed().await.expect("the sender is ours");
        }
    }

    /// Answers `request`; `progress` is that of its connection.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        progress: &Progress,
    ) -> Result<Answer, Unanswerable> {
        let close = says_close(request.headers());
        let answer = self.route(request, progress).await?;
        progress.request_is_whole();
        self.meters.answered(answer.status());
        Ok(web::finish(answer, (!close).then_some(self.config.idle_timeout.as_secs())))
    }

    async fn route(&self, request: Request<Incoming>, progress: &Progress) -> Result<Answer, Unanswerable> {
        let (head, body) = request.into_parts();
        let listen = (!self.config.door.asks()).then_some(self.address);
        if let Err(refusal) = check_origin(&head.method, &head.uri, &head.headers, listen) {
            return Ok(refused(&refusal));
        }
        if let Some(answer) = self.config.door.turns_away(&head) {
            return Ok(answer);
        }
        let path = head.uri.path();
        let asked = path.strip_prefix(query::api::PATH).filter(|method| query::api::knows(method));
        if path == push::PATH || asked.is_some() {
            let accepted = match connect::accept(&head.method, &head.headers) {
                Ok(accepted) => accepted,
                Err(answer) => return Ok(*answer),
            };
            let body = match self.bodies.read(body).await {
                Ok(body) => body,
                Err(BodyError::Broken(error)) => return Err(Unanswerable(error)),
                Err(BodyError::Refused(refusal)) => {
                    self.meters.refused(&refusal);
                    return Ok(refused(&refusal));
                }
            };
            progress.request_is_whole();
            return Ok(match asked {
                None => self.push(accepted, &body).await,
                Some(method) => {
                    let answer = async {
                        let answer = self.query(method, accepted, &body, &head.headers);
                        let answer = answer.unwrap_or_else(|refusal| refused(&refusal));
                        web::compressed(answer, &head.headers).await
                    };
                    self.in_turn(answer).await
                }
            });
        }
        if ingest::PATHS.contains(&path) {
            if let Err(answer) = ingest::accept(&head.method) {
                return Ok(*answer);
            }
            let body = match self.bodies.read(body).await {
                Ok(body) => body,
                Err(BodyError::Broken(error)) => return Err(Unanswerable(error)),
                Err(BodyError::Refused(refusal)) => {
                    self.meters.refused(&refusal);
                    return Ok(ingest::refused(&refusal));
                }
            };
            progress.request_is_whole();
            return Ok(self.ingest(&head, body).await);
        }
        if head.method != Method::GET && head.method != Method::HEAD {
            let known = matches!(path, "/ready" | "/metrics" | "/") || query::render::knows(path);
            return Ok(if known {
                method_not_allowed("GET, HEAD")
            } else {
                plain(StatusCode::NOT_FOUND, "not found")
            });
        }
        Ok(match head.uri.path() {
            "/ready" => plain(StatusCode::OK, "ready"),
            "/metrics" => web::text(StatusCode::OK, CONTENT_TYPE, self.meters.all.render()),
            path if query::render::knows(path) => {
                let parameters = Query::<HashMap<String, String>>::try_from_uri(&head.uri);
                let parameters = parameters.map(|Query(parameters)| parameters).unwrap_or_default();
                let answer = async {
                    let answer =
                        query::render::answer(path, &parameters, WallNs::now(), &self.store.borrow());
                    web::compressed(answer.unwrap_or_else(|refusal| refused(&refusal)), &head.headers).await
                };
                self.in_turn(answer).await
            }
            "/api/v1/status/buildinfo" => json(StatusCode::OK, build_info()),
            "/api/services" => {
                let answer = async {
                    self.ask(&head, |asked, now, store| {
                        json(StatusCode::OK, query::services(asked, now, &self.host, store))
                    })
                };
                self.in_turn(answer).await
            }
            "/api/flamegraph" => {
                let answer = async {
                    self.ask(&head, |asked, _, store| {
                        let (content_type, body) = query::flamegraph(asked, store);
                        web::text(StatusCode::OK, content_type, body)
                    })
                };
                self.in_turn(answer).await
            }
            path => {
                page::answer(path, &head.headers).unwrap_or_else(|| plain(StatusCode::NOT_FOUND, "not found"))
            }
        })
    }

    /// Takes a push; what it changed is on the disk when it is answered.
    async fn push(&self, accepted: Accepted, body: &[u8]) -> Answer {
        let Config { body_bytes_max, ref limits, .. } = self.config;
        let answer = {
            let store = &mut self.store.borrow_mut();
            push::answer(accepted, body, body_bytes_max, limits, store, &self.meters)
        };
        self.when_safe(answer).await
    }

    /// Takes what an older agent or an SDK sends.
    async fn ingest(&self, head: &http::request::Parts, body: Vec<u8>) -> Answer {
        let content_type = head.headers.get(http::header::CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let parameters = Query::<HashMap<String, String>>::try_from_uri(&head.uri);
        let parameters = parameters.map(|Query(parameters)| parameters).unwrap_or_default();
        let gzip = head.headers.get(http::header::CONTENT_ENCODING).is_some_and(|value| value == "gzip");
        let body = match connect::plain_body(gzip, body, self.config.body_bytes_max) {
            Ok(body) => ingest::parts(body, content_type).await,
            Err(refusal) => Err(refusal),
        };
        let answer = match body {
            Err(refusal) => {
                self.meters.refused(&refusal);
                return ingest::refused(&refusal);
            }
            Ok(body) => {
                let asked = ingest::Asked { parameters: &parameters, content_type };
                let store = &mut self.store.borrow_mut();
                ingest::answer(&asked, body, &self.config.limits, store, &self.meters)
            }
        };
        self.when_safe(answer).await
    }

    /// `answer`, once what was pushed before it is on the disk; another where that cannot be.
    async fn when_safe(&self, answer: Answer) -> Answer {
        match self.safe().await {
            Err(refusal) => {
                self.meters.refused(&refusal);
                refused(&refusal)
            }
            Ok(()) => answer,
        }
    }

    /// Answers a question that a Pyroscope answers.
    fn query(
        &self,
        method: &str,
        accepted: Accepted,
        body: &[u8],
        headers: &http::HeaderMap,
    ) -> Result<Answer, Refusal> {
        let body = accepted.body(body, self.config.body_bytes_max)?;
        let accepts = headers.get(http::header::ACCEPT).and_then(|value| value.to_str().ok());
        let dotted = accepts.is_some_and(|accepts| accepts.contains("allow-utf8-labelnames=true"));
        query::api::answer(method, accepted.codec, &body, dotted, WallNs::now(), &self.store.borrow())
    }

    /// Questions are answered one after another, so that a push never waits for more than one, and each once there is
    /// room for the answer to the one before.
    async fn in_turn(&self, answer: impl Future<Output = Answer>) -> Answer {
        let _turn = self.turns.acquire().await.expect("turns are never closed");
        let answer = answer.await;
        // Sockets are looked at before the next one begins: else a crowd that asks is served before who pushes is heard.
        tokio::task::yield_now().await;
        self.answers.take(answer).await
    }

    /// Answers a question of the page, unless it knows the answer.
    fn ask(
        &self,
        head: &http::request::Parts,
        answer: impl Fn(&Resolved, WallNs, &Store) -> Answer,
    ) -> Answer {
        let now = WallNs::now();
        let store = &mut self.store.borrow_mut();
        self.meters.evicted(store.evict(now));
        self.meters.store_bytes(store.bytes(), store.disk_bytes());
        let question = match Query::<Question>::try_from_uri(&head.uri) {
            Ok(Query(question)) => question,
            Err(error) => return plain(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        match Resolved::new(question, now, store) {
            Err(refusal) => refused(&refusal),
            Ok(asked) => {
                let tag = asked.tag(self.boot, store);
                web::unchanged(&head.headers, &tag)
                    .unwrap_or_else(|| web::tagged(answer(&asked, now, store), &tag))
            }
        }
    }
}
