"""The control plane: what the loop in `sheeprl.run` asks of players, replay and trainers."""
