"""How does a trained network leave its run, and how does one that comes from elsewhere come in?"""
