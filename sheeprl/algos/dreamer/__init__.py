"""Common base of the Dreamers: arguments, acting, inference, imagination and the distribution of actions."""
