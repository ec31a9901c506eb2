"""What all Dreamers share: the arguments, acting, inference, imagination and the actions' distribution."""
