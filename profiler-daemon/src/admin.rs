//! The agent's own port: `/metrics`, `/-/healthy`, `/-/ready`, `/-/status`.
//!
//! In: the meters, and three questions it may ask. Out: HTTP on loopback, from a thread of its own that sleeps until
//! somebody asks. With a token, who asks for more than health has to show it.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::meters::{self, Meters};
use crate::token::{Token, Verdict};

/// What the port can say about the agent.
#[derive(Clone)]
pub struct Admin {
    /// What is counted.
    pub meters: Meters,
    /// Called before each rendering, for gauges that cost something to know.
    pub refresh: Arc<dyn Fn() + Send + Sync>,
    /// Whether the agent makes progress; if not, why.
    pub healthy: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// What has to be shown by who asks for figures; without it, nothing.
    pub token: Option<Arc<Token>>,
    /// What it does and how that goes, in lines.
    pub status: Arc<dyn Fn() -> String + Send + Sync>,
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
    Router::new()
        .route("/metrics", get(metrics))
        .route("/-/status", get(|State(admin): State<Admin>| async move { (admin.status)() }))
        .route_layer(middleware::from_fn_with_state(admin.clone(), guard))
        // Who asks whether we are well learns nothing about others, and often cannot show a token.
        .route("/-/healthy", get(healthy))
        .route("/-/ready", get(|| async { "ready\n" }))
        .with_state(admin)
}

/// Lets pass who shows the token, if there is one.
async fn guard(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let verdict = admin.token.map(|token| token.check(request.headers(), request.uri()));
    match verdict {
        None | Some(Verdict::Granted) => next.run(request).await,
        Some(Verdict::Introduced { location, cookie }) => {
            (StatusCode::SEE_OTHER, [(header::LOCATION, location), (header::SET_COOKIE, cookie)])
                .into_response()
        }
        Some(Verdict::Refused) => {
            let how = "show the token of token_file: Authorization: Bearer TOKEN, or ?token=TOKEN once in a browser\n";
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], how).into_response()
        }
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    (admin.refresh)();
    ([(header::CONTENT_TYPE, meters::CONTENT_TYPE)], admin.meters.render())
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

    const TOKEN: &str = "0123456789abcdef";

    /// The status of an answer to a request for `uri`, and where it leads.
    async fn ask(token: Option<&str>, uri: &str, shown: Option<&str>) -> (StatusCode, Option<String>) {
        let admin = Admin {
            meters: Meters::default(),
            refresh: Arc::new(|| {}),
            healthy: Arc::new(|| Ok(())),
            status: Arc::new(|| "well\n".to_owned()),
            token: token.map(|token| Arc::new(Token::new(token).unwrap())),
        };
        let mut request = Request::builder().uri(uri);
        if let Some(shown) = shown {
            request = request.header(header::AUTHORIZATION, shown);
        }
        let answer = router(admin).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let location = answer.headers().get(header::LOCATION).map(|value| value.to_str().unwrap().to_owned());
        (answer.status(), location)
    }

    #[tokio::test]
    async fn figures_are_for_who_shows_the_token_and_health_is_for_all() {
        for uri in ["/metrics", "/-/status"] {
            assert_eq!(ask(None, uri, None).await.0, StatusCode::OK);
            assert_eq!(ask(Some(TOKEN), uri, None).await.0, StatusCode::UNAUTHORIZED);
            assert_eq!(ask(Some(TOKEN), uri, Some("Bearer wrong")).await.0, StatusCode::UNAUTHORIZED);
            assert_eq!(ask(Some(TOKEN), uri, Some(&format!("Bearer {TOKEN}"))).await.0, StatusCode::OK);
            let (status, location) = ask(Some(TOKEN), &format!("{uri}?token={TOKEN}"), None).await;
            assert_eq!((status, location.as_deref()), (StatusCode::SEE_OTHER, Some(uri)));
        }
        for uri in ["/-/healthy", "/-/ready"] {
            assert_eq!(ask(Some(TOKEN), uri, None).await.0, StatusCode::OK);
        }
    }
}
