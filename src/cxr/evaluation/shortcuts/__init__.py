"""What does a trained network keep of its skill when the disease is taken out of the picture?"""
