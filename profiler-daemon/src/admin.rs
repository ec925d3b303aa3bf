//! The agent's own port: `/metrics`, `/-/healthy`, `/-/ready`, `/-/status`, `/-/why?pid=PID`.
//!
//! In: the meters, and some questions it may ask. Out: HTTP on loopback, from a thread of its own that sleeps until
//! somebody asks. With a token, who asks for more than health has to show it.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use tokio::sync::Semaphore;

use crate::meters::{self, Meters};
use crate::token::{Gate, Verdict};

/// What the port can say about the agent.
#[derive(Clone)]
pub struct Admin {
    /// What is counted.
    pub meters: Meters,
    /// Called before each rendering, for gauges that cost something to know.
    pub refresh: Arc<dyn Fn() + Send + Sync>,
    /// Whether the agent makes progress; if not, why.
    pub healthy: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// Who may ask for figures.
    pub gate: Gate,
    /// What it does and how that goes, in lines.
    pub status: Arc<dyn Fn() -> String + Send + Sync>,
    /// Why a process has no data, as JSON. May take a second; one question is answered at a time.
    pub why: Arc<dyn Fn(u32) -> serde_json::Value + Send + Sync>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Admin").finish_non_exhaustive()
    }
}

/// Serves on `listener` until the process ends.
pub fn spawn(listener: TcpListener, admin: Admin) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            axum::serve(listener, router(admin)).await
        })
    })?;
    Ok(())
}

fn router(admin: Admin) -> Router {
    let turn = Arc::new(Semaphore::new(1));
    Router::new()
        .route("/metrics", get(metrics))
        .route("/-/status", get(|State(admin): State<Admin>| async move { (admin.status)() }))
        .route("/-/why", get(why))
        .layer(Extension(turn))
        .route_layer(middleware::from_fn_with_state(admin.clone(), guard))
        // Who asks whether we are well learns nothing about others, and often cannot show a token.
        .route("/-/healthy", get(healthy))
        .route("/-/ready", get(|| async { "ready\n" }))
        .with_state(admin)
}

/// Lets pass who may ask for figures.
async fn guard(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    match admin.gate.check(request.headers(), request.uri()) {
        Verdict::Granted => next.run(request).await,
        Verdict::Introduced { location, cookie } => {
            (StatusCode::SEE_OTHER, [(header::LOCATION, location), (header::SET_COOKIE, cookie)])
                .into_response()
        }
        Verdict::Refused => {
            let how = "show the token of token_file: Authorization: Bearer TOKEN, or ?token=TOKEN once in a browser\n";
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], how).into_response()
        }
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    (admin.refresh)();
    ([(header::CONTENT_TYPE, meters::CONTENT_TYPE)], admin.meters.render())
}

/// One at a time: whoever asks costs us a look through a process, and nobody may make us do nothing else.
async fn why(
    State(admin): State<Admin>,
    Extension(turn): Extension<Arc<Semaphore>>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let Some(pid) = query.get("pid").and_then(|pid| pid.parse().ok()) else {
        return (StatusCode::BAD_REQUEST, "which process? /-/why?pid=PID\n").into_response();
    };
    let Ok(turn) = turn.try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "another question is being answered: ask again\n")
            .into_response();
    };
    let answer = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        (admin.why)(pid)
    });
    match answer.await {
        Ok(answer) => Json(answer).into_response(),
        Err(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "looking at it failed; the log says how\n").into_response()
        }
    }
}

async fn healthy(State(admin): State<Admin>) -> impl IntoResponse {
    match (admin.healthy)() {
        Ok(()) => (StatusCode::OK, "healthy\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use axum::body::Body;
    use tower::ServiceExt;

    use super::*;
    use crate::token::Token;

    const TOKEN: &str = "0123456789abcdef";

    /// The status of an answer to a request for `uri`, and where it leads.
    async fn ask(token: Option<&str>, uri: &str, shown: Option<&str>) -> (StatusCode, Option<String>) {
        let admin = Admin {
            meters: Meters::default(),
            refresh: Arc::new(|| {}),
            healthy: Arc::new(|| Ok(())),
            status: Arc::new(|| "well\n".to_owned()),
            why: Arc::new(|pid| serde_json::json!({ "pid": pid })),
            gate: Gate::new(token.map(|token| Token::new(token).unwrap())),
        };
        let mut request = Request::builder().uri(uri);
        if let Some(shown) = shown {
            request = request.header(header::AUTHORIZATION, shown);
        }
        let answer = router(admin).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let location = answer.headers().get(header::LOCATION).map(|value| value.to_str().unwrap().to_owned());
        (answer.status(), location)
    }

    fn with_token(uri: &str) -> String {
        format!("{uri}{}token={TOKEN}", if uri.contains('?') { '&' } else { '?' })
    }

    #[tokio::test]
    async fn a_question_about_no_process_is_refused() {
        for uri in ["/-/why", "/-/why?pid=", "/-/why?pid=me", "/-/why?pid=-1", "/-/why?pid=99999999999"] {
            assert_eq!(ask(None, uri, None).await.0, StatusCode::BAD_REQUEST, "{uri}");
        }
    }

    #[tokio::test]
    async fn figures_are_for_who_shows_the_token_and_health_is_for_all() {
        for uri in ["/metrics", "/-/status", "/-/why?pid=1"] {
            assert_eq!(ask(None, uri, None).await.0, StatusCode::OK);
            assert_eq!(ask(Some(TOKEN), uri, None).await.0, StatusCode::UNAUTHORIZED);
            assert_eq!(ask(Some(TOKEN), uri, Some("Bearer wrong")).await.0, StatusCode::UNAUTHORIZED);
            assert_eq!(ask(Some(TOKEN), uri, Some(&format!("Bearer {TOKEN}"))).await.0, StatusCode::OK);
            let (status, location) = ask(Some(TOKEN), &with_token(uri), None).await;
            assert_eq!((status, location.as_deref()), (StatusCode::SEE_OTHER, Some(uri)));
        }
        for uri in ["/-/healthy", "/-/ready"] {
            assert_eq!(ask(Some(TOKEN), uri, None).await.0, StatusCode::OK);
        }
    }
}
