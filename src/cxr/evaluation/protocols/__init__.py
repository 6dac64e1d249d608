"""How far does the way of dividing the records flatter a network?"""
