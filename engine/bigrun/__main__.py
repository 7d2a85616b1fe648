from bigrun.cli import main

main()
