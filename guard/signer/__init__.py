"""The sidecar that holds a workload's PKCS#11 session and answers its challenges."""
