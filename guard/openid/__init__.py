"""Logging in with an OpenID provider (OpenID Connect Core 1.0, code flow with PKCE), to look and never to decide."""
