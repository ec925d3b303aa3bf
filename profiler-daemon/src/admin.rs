//! The agent's own port: `/metrics`, `/-/healthy`, `/-/ready`, `/-/status`.
//!
//! In: the meters, and three questions it may ask. Out: HTTP on loopback, from a thread of its own that sleeps until
//! somebody asks.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::meters::{self, Meters};

/// What the port can say about the agent.
#[derive(Clone)]
pub struct Admin {
    /// What is counted.
    pub meters: Meters,
    /// Called before each rendering, for gauges that cost something to know.
    pub refresh: Arc<dyn Fn() + Send + Sync>,
    /// Whether the agent makes progress; if not, why.
    pub healthy: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
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
        .route("/-/healthy", get(healthy))
        .route("/-/ready", get(|| async { "ready\n" }))
        .route("/-/status", get(|State(admin): State<Admin>| async move { (admin.status)() }))
        .with_state(admin)
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
