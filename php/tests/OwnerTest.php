<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Client;
use Roster\Exception\InvalidRequest;
use Roster\Exception\Unavailable;
use Roster\Tests\Support\Answer;
use Roster\Tests\Support\FakeSidecar;
use Roster\Tests\Support\Patient;
use Roster\Tests\Support\SharedFile;
use Roster\Tests\Support\Skip;
use Roster\Transport;

/** Where the sidecar's user is named, nobody else is believed. */
final class OwnerTest extends TestCase
{
    public function testTheSidecarsUserIsBelievedByNameAndByNumber(): void
    {
        $name = posix_getpwuid(posix_geteuid())['name'];
        foreach ([$name, posix_geteuid()] as $user) {
            foreach ([false, true] as $isPersistent) {
                $answers = [Answer::nodes(['/a' => 'one']), Answer::nodes(['/a' => 'two'])];
                $fake = new FakeSidecar([$answers]);
                $roster = Patient::local($fake->address, '', '', persistent: $isPersistent, user: $user);
                self::assertSame(['one', 'two'], [$roster->get('/a')->data, $roster->get('/a')->data]);
            }
            $file = new SharedFile(['/a' => 'of the file']);
            $node = Patient::local($fake->address, '', $file->path, user: $user)->get('/a');
            self::assertSame(['of the file', Transport::Shared], [$node->data, $node->freshness->from]);
        }
    }

    public function testWhatAnotherUserPutThereIsNotAsked(): void
    {
        $other = posix_geteuid() + 1;
        $file = new SharedFile(['/a' => 'of another']);
        $fake = new FakeSidecar([[Answer::nodes(['/a' => 'of another'])]]);
        $failures = self::failures(Client::local($fake->address, '', $file->path, user: $other));
        self::assertSame(['it belongs to uid ' . posix_geteuid() . ", not to `$other`"], array_unique($failures));
        self::assertSame([], $fake->seen());
    }

    /** @requires extension dba */
    public function testAFileThatAnotherClientHasOpenedIsNotTakenOverWhereItsOwnerIsAnother(): void
    {
        $other = posix_geteuid() + 1;
        $file = new SharedFile(['/a' => 'of another']);
        $anybodys = Client::local('', '', $file->path);
        $theirs = Client::local('', '', $file->path, user: $other);
        for ($round = 0; $round < 3; $round++) {
            self::assertSame('of another', $anybodys->get('/a')->data);
            self::assertSame(
                ['it belongs to uid ' . posix_geteuid() . ", not to `$other`"],
                array_unique(self::failures($theirs)),
            );
        }
    }

    /** @requires extension dba */
    public function testAFileThatTookThePlaceOfTheirsIsNotReadThoughAnotherClientHasOpenedIt(): void
    {
        if (posix_geteuid() !== 0) {
            self::markTestSkipped('only root can give a file away');
        }
        $file = new SharedFile(['/a' => 'theirs']);
        $anybodys = Client::local('', '', $file->path);
        $theirs = Client::local('', '', $file->path, user: 0);
        self::assertSame('theirs', $theirs->get('/a')->data);
        $file->set([], silenceMs: 5_000);
        $file->replace(['/a' => 'planted']);
        chown($file->path, 33);
        self::assertSame('planted', $anybodys->get('/a')->data);
        self::assertSame(['it belongs to uid 33, not to `0`'], array_unique(self::failures($theirs)));
    }

    public function testTheKernelSaysWhoAnswers(): void
    {
        if (posix_geteuid() !== 0 || !extension_loaded('sockets')) {
            Skip::because('only root can give a socket away, and the sockets extension see who answers');
        }
        $fake = new FakeSidecar([[Answer::nodes(['/a' => 'of root'])]]);
        chown($fake->address, 33);
        self::assertSame(['uid 0 answers, not `33`'], self::failures(Client::local($fake->address, '', '', user: 33)));
    }

    public function testAUserThatIsNotThereIsNobody(): void
    {
        $fake = new FakeSidecar([[]]);
        $failures = self::failures(Client::local($fake->address, '', '', user: 'no-such-user'));
        self::assertSame(['there is no user `no-such-user`'], $failures);
    }

    public function testOverTcpNobodyIsKnown(): void
    {
        $this->expectException(InvalidRequest::class);
        Client::local(tcp: '127.0.0.1:9090', user: 'roster');
    }

    /** @return list<string> why each transport failed */
    private static function failures(Client $roster): array
    {
        try {
            $roster->get('/a');
        } catch (Unavailable $failure) {
            return array_column($failure->attempts, 'failure');
        }
        self::fail('it answered');
    }
}
