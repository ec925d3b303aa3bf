//! Who we are to a Pyroscope: the options of all commands that speak to one.

use clap::Args;

// No doc comment: clap would show it as what the command is for.
#[derive(Debug, Args)]
pub(super) struct AccessArguments {
    /// User to come as, by basic authentication; the password is in PROFILER_PASSWORD, a file, or the credential `password`
    /// of the unit [default: none]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// File with that user's password [default: none]
    #[arg(long, value_name = "FILE")]
    password_file: Option<String>,
    /// File with a token to come with; else it is in PROFILER_BEARER_TOKEN or the credential `bearer-token` of the unit
    /// [default: none]
    #[arg(long, value_name = "FILE")]
    bearer_token_file: Option<String>,
    /// Tenant to ask or push for, sent as X-Scope-OrgID [default: none]
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// More headers of each request, a TOML table such as { X-Team = "profiling" } [default: none]
    #[arg(long, value_name = "TABLE")]
    headers: Option<String>,
    /// Certificates of authorities to trust beside the machine's own, PEM [default: none]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<String>,
    /// Our certificate, for servers that ask for one, PEM [default: none]
    #[arg(long, value_name = "FILE")]
    client_certificate_file: Option<String>,
    /// The key of that certificate, PEM [default: the credential `client-key` of the unit, else none]
    #[arg(long, value_name = "FILE")]
    client_key_file: Option<String>,
}

impl AccessArguments {
    /// Those that were given, by their keys.
    pub(super) fn flags(self) -> Vec<(&'static str, String)> {
        let Self {
            user,
            password_file,
            bearer_token_file,
            tenant,
            headers,
            ca_file,
            client_certificate_file,
            client_key_file,
        } = self;
        [
            ("user", user),
            ("password_file", password_file),
            ("bearer_token_file", bearer_token_file),
            ("tenant", tenant),
            ("headers", headers),
            ("ca_file", ca_file),
            ("client_certificate_file", client_certificate_file),
            ("client_key_file", client_key_file),
        ]
        .into_iter()
        .filter_map(|(key, text)| Some((key, text?)))
        .collect()
    }
}
